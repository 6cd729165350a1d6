"""The last layer: all of it but queries, keys and values runs at answer positions only.

No later layer reads the last layer's outputs. At positions that predict no answer token, nothing
needs the attention of its queries, its output projection or its feed-forward layer, which are 88 %
of its matrices. On the torch backend the core attention takes the answers' queries alone
(``HeadAttention``). Transformer Engine's kernels want whole samples, so there the attention runs
everywhere and its outputs are selected (:func:`with_outputs_at_answers`).
"""

from typing import Any

import torch
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_in2.model.packed_row import PackedRow


def with_outputs_at_answers(attention: type[torch.nn.Module]) -> type[torch.nn.Module]:
    """Return a class of core attention that returns outputs at ``PackedRow.head_positions`` only.

    Args:
        attention: a core attention of Megatron-Core; the first dimension of its output is tokens.
    """
    return type(f"{attention.__name__}AtAnswers", (_OutputsAtAnswers, attention), {})


class _OutputsAtAnswers:
    def forward(
        self, *inputs: Any, packed_seq_params: PackedRow | None = None, **options: Any
    ) -> torch.Tensor:
        output: torch.Tensor = super().forward(  # type: ignore[misc] # of the class beside it
            *inputs, packed_seq_params=packed_seq_params, **options
        )
        if packed_seq_params is None or packed_seq_params.head_positions is None:
            return output
        return output.index_select(0, packed_seq_params.head_positions)


class HeadLayer(TransformerLayer):  # type: ignore[misc] # upstream is untyped
    """``TransformerLayer`` that returns hidden states at ``PackedRow.head_positions`` only.

    [T, 1, hidden] -> [N, 1, hidden]; under sequence parallelism both are divided among the
    tensor-parallel ranks. A row without such positions returns all T.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        rotary_pos_emb: torch.Tensor,
        packed_seq_params: PackedRow,
        **unused: Any,
    ) -> tuple[torch.Tensor, None]:
        attended, _ = self.self_attention(
            self.input_layernorm(hidden_states),
            attention_mask=attention_mask,
            rotary_pos_emb=rotary_pos_emb,
            packed_seq_params=packed_seq_params,
        )
        if packed_seq_params.head_positions is not None:
            hidden_states = self._select(hidden_states, packed_seq_params.head_positions)
        return self._forward_mlp(hidden_states + attended), None

    def _select(self, hidden_states: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if not self.config.sequence_parallel:
            return hidden_states.index_select(0, positions)
        group = self.pg_collection.tp
        # Every rank selects the same, so all have the same gradient: split it, do not sum it.
        gathered = gather_from_sequence_parallel_region(
            hidden_states, tensor_parallel_output_grad=False, group=group
        )
        selected: torch.Tensor = scatter_to_sequence_parallel_region(
            gathered.index_select(0, positions), group=group
        )
        return selected
