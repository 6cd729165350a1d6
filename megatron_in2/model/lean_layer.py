"""The torch backend's layer with selective recomputation: norms and SwiGLU's product.

Both are elementwise, or nearly so: recomputing them needs neither a matrix product nor
communication. They are 2 H + F of the elements that a layer keeps for each token (H hidden size, F
feed-forward size), about a third at the sizes of a 7B model.
"""

from functools import partial
from typing import Any

import torch
from megatron.core.tensor_parallel import CheckpointWithoutOutput
from megatron.core.transformer.mlp import MLP
from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_in2.model.packed_row import PackedRow
from megatron_in2.model.swiglu import swiglu


class LeanLayer(TransformerLayer):  # type: ignore[misc] # upstream is untyped
    """``TransformerLayer`` that recomputes its norms' outputs and SwiGLU's.

    Megatron-Core's own recomputation of norms needs Transformer Engine in version 0.16.1: it takes
    the default of ``CheckpointWithoutOutput`` for FP8.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.mlp.forward = partial(_forward_lean, self.mlp)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        rotary_pos_emb: torch.Tensor | None,
        packed_seq_params: PackedRow,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return hidden states after this layer: [T, 1, hidden], and no context."""
        norm = _checkpoint()
        attended, _ = self.self_attention(
            norm.checkpoint(self.input_layernorm, hidden_states),
            attention_mask=attention_mask,
            rotary_pos_emb=rotary_pos_emb,
            packed_seq_params=packed_seq_params,
        )
        norm.discard_output_and_register_recompute(attended)
        hidden_states = hidden_states + attended
        norm = _checkpoint()
        output, _ = self.mlp(norm.checkpoint(self.pre_mlp_layernorm, hidden_states))
        norm.discard_output_and_register_recompute(output)
        return hidden_states + output, None


def _forward_lean(mlp: MLP, hidden_states: torch.Tensor) -> tuple[torch.Tensor, None]:
    gate_up, _ = mlp.linear_fc1(hidden_states)
    activation = _checkpoint()
    output, _ = mlp.linear_fc2(activation.checkpoint(swiglu, gate_up))
    activation.discard_output_and_register_recompute(output)
    return output, None


def _checkpoint() -> CheckpointWithoutOutput:
    return CheckpointWithoutOutput(fp8=None)
