"""A Megatron-Core ``GPTModel`` whose LM head runs at answer positions only.

The last layer does too, see :mod:`megatron_in2.model.head_layer`.

Shapes: T tokens of this context rank, N of them trained on, V/TP vocabulary columns of this rank.
"""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import (
    gather_from_sequence_parallel_region,
    vocab_parallel_cross_entropy,
)

from megatron_in2.model.head_layer import HeadLayer
from megatron_in2.model.packed_row import PackedRow
from megatron_in2.model.rotary import rotation_of


class AnswerGPTModel(GPTModel):  # type: ignore[misc] # upstream is untyped
    """``GPTModel`` with an answer-only head; padded vocabulary columns are not in the softmax.

    ``forward(..., labels, loss_mask)`` returns the float32 cross entropy, [N], of the tokens
    where ``loss_mask`` is 1, in local order. If there is none, it returns one element of weight
    zero, so that every rank takes part in every collective. Where the packing record says that the
    model chooses, it returns the most likely token instead of each loss, int64 [N]. Without labels
    it returns all logits, [1, T, V/TP].
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

    def _preprocess(  # type: ignore[override]
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor | None,
        packed_seq_params: PackedRow | None = None,
        **others: Any,
    ) -> tuple[Any, ...]:
        """Let the torch backend's attention rotate by one rotation for all layers."""
        embedded, angles, *rest = super()._preprocess(
            input_ids, position_ids, packed_seq_params=packed_seq_params, **others
        )
        if (
            not self.config.apply_rope_fusion  # else a fused kernel needs no cosines
            and position_ids is not None
            and packed_seq_params is not None
        ):
            packed_seq_params.rotation = rotation_of(
                angles, position_ids.view(-1), self.config.params_dtype
            )
            angles = None
        return (embedded, angles, *rest)

    def _postprocess(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        labels: torch.Tensor | None = None,
        loss_mask: torch.Tensor | None = None,
        packed_seq_params: PackedRow | None = None,
        **unused: Any,
    ) -> torch.Tensor:
        """Replace upstream's head; its other arguments are for inference and multi-token heads."""
        if not self.post_process:
            return hidden_states
        if self.config.sequence_parallel:
            # The head already sums its input's gradient over the ranks: only split it here.
            hidden_states = gather_from_sequence_parallel_region(
                hidden_states, tensor_parallel_output_grad=False, group=self.pg_collection.tp
            )
        if labels is None:
            return self._logits(hidden_states).transpose(0, 1).contiguous()
        assert loss_mask is not None
        assert packed_seq_params is not None
        answers = loss_mask.view(-1).nonzero().view(-1)
        weight = 1.0 if len(answers) else 0.0
        positions = answers if len(answers) else answers.new_zeros(1)
        targets = labels.view(-1, 1)
        if not self.has_answer_only_head and not packed_seq_params.chooses:
            return weight * self._losses(hidden_states, targets).index_select(0, positions)
        if self.has_head_layer and packed_seq_params.head_positions is not None:
            hidden_states = hidden_states[: len(positions)]  # selected by the layer, then padded
        else:
            hidden_states = hidden_states.index_select(0, positions)
        if packed_seq_params.chooses:
            return self._choices(hidden_states)
        return weight * self._losses(hidden_states, targets.index_select(0, positions))

    def _losses(self, hidden_states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the cross entropy of [N, 1, hidden] against [N, 1]: float32 [N]."""
        logits = self._logits(hidden_states).float()
        losses: torch.Tensor = vocab_parallel_cross_entropy(logits, targets)
        return losses.view(-1)

    def _choices(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Return the most likely token, the first of equal ones: [N, 1, hidden] -> int64 [N]."""
        group = self.pg_collection.tp
        tokens: torch.Tensor
        values, tokens = self._logits(hidden_states).float().squeeze(1).max(dim=-1)
        tokens = tokens + group.rank() * self.output_layer.output_size_per_partition
        if group.size() == 1:
            return tokens
        of_ranks = [torch.empty_like(values) for _ in range(group.size())]
        dist.all_gather(of_ranks, values, group=group)
        best = torch.stack(of_ranks).max(dim=0).indices  # the first rank has the first tokens
        chosen: torch.Tensor = tokens.where(best == group.rank(), tokens.new_zeros(()))
        dist.all_reduce(chosen, group=group)
        return chosen

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
