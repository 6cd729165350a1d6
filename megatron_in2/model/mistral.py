"""Mistral as a Megatron-Core ``GPTModel`` whose LM head runs at answer positions only.

On the torch backend its last layer does so too, see :mod:`megatron_in2.model.head_layer`.

Shapes: T tokens of this context rank, N of them learnt, V/TP vocabulary columns of this rank.
"""

import importlib.util
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    vocab_parallel_cross_entropy,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_in2.model.backend import block_spec, choose_backend, require_fp8
from megatron_in2.model.config import ModelConfig
from megatron_in2.model.head_layer import HeadLayer
from megatron_in2.model.packed_row import PackedRow
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.world import World


class MistralModel(GPTModel):  # type: ignore[misc] # upstream is untyped
    """``GPTModel`` with an answer-only head and padded vocabulary columns out of the softmax.

    ``forward(..., labels, loss_mask)`` returns the float32 cross entropy, [N], of the tokens
    where ``loss_mask`` is 1, in local order. Where there is none it returns one element of
    weight zero, so that every rank takes part in every collective. Without labels it returns
    all logits, [1, T, V/TP].
    """

    def __init__(self, true_vocab_size: int, logits: str, **gpt_arguments: Any) -> None:
        super().__init__(**gpt_arguments)
        self.has_answer_only_head = logits == "answers"
        if self.post_process:
            # The head gets gathered hidden states, so sequence parallelism ends before it.
            tensor_size, tensor_rank = self.pg_collection.tp.size(), self.pg_collection.tp.rank()
            self.output_layer.sequence_parallel = False
            self.output_layer.allreduce_dgrad = tensor_size > 1
            columns = self.output_layer.output_size_per_partition
            self.true_columns = min(max(true_vocab_size - tensor_rank * columns, 0), columns)
            self.has_head_layer = isinstance(self.decoder.layers[-1], HeadLayer)

    def _postprocess(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        packed_seq_params: PackedRow | None = None,
        **unused: Any,
    ) -> torch.Tensor:
        """Replace upstream's head; its other arguments serve inference and multi-token heads."""
        if not self.post_process:
            return hidden_states
        if self.config.sequence_parallel:
            # The head sums its input gradient over the ranks itself: here it is only split.
            hidden_states = gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=False, group=self.pg_collection.tp
            )
        if labels is None:
            return self._logits(hidden_states).transpose(0, 1).contiguous()
        assert loss_mask is not None
        assert packed_seq_params is not None
        learnt = loss_mask.view(-1).nonzero().view(-1)
        weight = 1.0 if len(learnt) else 0.0
        positions = learnt if len(learnt) else learnt.new_zeros(1)
        targets = labels.view(-1, 1)
        if not self.has_answer_only_head:
            return weight * self._losses(hidden_states, targets).index_select(0, positions)
        if self.has_head_layer and packed_seq_params.head_positions is not None:
            hidden_states = hidden_states[: len(positions)]  # the layer selected; behind: padding
        else:
            hidden_states = hidden_states.index_select(0, positions)
        return weight * self._losses(hidden_states, targets.index_select(0, positions))

    def _losses(self, hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Cross entropy of [N, 1, hidden] against [N, 1]: float32 [N]."""
        logits = self._logits(hidden_states).float()
        losses: torch.Tensor = vocab_parallel_cross_entropy(logits, targets)
        return losses.view(-1)

    def _logits(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the LM head: [N, 1, hidden] -> [N, 1, V/TP], padded columns at minus infinity."""
        tied = self.share_embeddings_and_output_weights
        logits: torch.Tensor
        logits, _ = self.output_layer(
            hidden_states, weight=self.shared_embedding_or_output_weight() if tied else None
        )
        if self.true_columns < logits.size(-1):
            padded = torch.arange(logits.size(-1), device=logits.device) >= self.true_columns
            logits = logits.masked_fill(padded, float("-inf"))
        return logits


def build_model(
    model: ModelConfig,
    parallel: ParallelConfig,
    world: World,
    dtype: torch.dtype,
    recompute: str = "none",
    fp8: str = "",
) -> MistralModel:
    """Build this rank's part of the model on its device, its weights not yet set.

    Args:
        model: the architecture.
        parallel: the layout.
        world: this rank's place in it.
        dtype: of the weights and the arithmetic.
        recompute: none | selective (feed-forward layers) | full (whole layers).
        fp8: hybrid | e4m3, the format of matrix products; empty for none.

    Raises:
        InputError: the backend or FP8 that the config forces cannot run here.
    """
    backend = choose_backend(model.backend)
    require_fp8(fp8, backend)
    config = transformer_config(model, parallel, dtype, backend, recompute, fp8)
    instance = MistralModel(
        true_vocab_size=model.vocab_size,
        logits=model.logits,
        config=config,
        transformer_layer_spec=block_spec(
            backend,
            model.num_layers // parallel.pipeline,
            ends_in_head=world.is_last_stage and model.logits == "answers",
        ),
        vocab_size=model.padded_vocab_size(parallel.tensor),
        max_sequence_length=model.max_position_embeddings,
        pre_process=world.is_first_stage,
        post_process=world.is_last_stage,
        share_embeddings_and_output_weights=model.tie_word_embeddings,
        position_embedding_type="rope",
        rotary_base=model.rope_theta,
    )
    instance.to(world.device)
    return instance


def _has_fused_weight_gradients() -> bool:
    """Say whether apex's kernel is there, which adds weight gradients to the float32 buffer."""
    found = importlib.util.find_spec("fused_weight_gradient_mlp_cuda")
    return found is not None and torch.cuda.is_available()


_RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["mlp"]},
    "full": {
        "recompute_granularity": "full",
        "recompute_method": "uniform",
        "recompute_num_layers": 1,
    },
}


def transformer_config(
    model: ModelConfig,
    parallel: ParallelConfig,
    dtype: torch.dtype,
    backend: str,
    recompute: str,
    fp8: str = "",
) -> TransformerConfig:
    """Translate this project's configs into Megatron-Core's.

    ``calculate_per_token_loss`` must stand before the model is wrapped for data parallelism: it
    decides how gradients are scaled, and per-rank means would be wrong under context parallelism.

    FP8 is scaled per tensor from the values at hand ("tensorwise", Transformer Engine's current
    scaling): the delayed recipe's history would be state that a resumed run lacks.
    """
    fused = backend == "transformer_engine"
    return TransformerConfig(
        num_layers=model.num_layers,
        hidden_size=model.hidden_size,
        num_attention_heads=model.num_attention_heads,
        num_query_groups=model.num_query_groups,
        kv_channels=model.head_dim,
        ffn_hidden_size=model.ffn_hidden_size,
        normalization="RMSNorm",
        layernorm_epsilon=model.norm_epsilon,
        gated_linear_unit=True,
        activation_func=F.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        init_method_std=model.init_std,
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
        sequence_parallel=parallel.sequence,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        calculate_per_token_loss=True,
        variable_seq_lengths=False,
        gradient_accumulation_fusion=_has_fused_weight_gradients(),
        masked_softmax_fusion=False,
        persist_layer_norm=fused,
        apply_rope_fusion=fused,
        bias_activation_fusion=fused,
        bias_dropout_fusion=False,
        fp8=fp8 or None,
        fp8_recipe="tensorwise",
        **_RECOMPUTE[recompute],
    )
