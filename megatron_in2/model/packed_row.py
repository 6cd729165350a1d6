"""A packed row for the model: sample boundaries, and the part of a context-parallel rank.

Context parallelism cuts each sample into 2 x CP equal chunks. Rank r has chunks r and
2 x CP - 1 - r (zigzag), so that causal attention costs the same on every rank. This is the order
that Megatron-Core's THD rotary embedding and Transformer Engine expect.
"""

from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_in2.model.rotary import Rotation


class Span(NamedTuple):
    """Consecutive queries of a sample, and the keys from its start that the last query sees."""

    queries: int
    key_start: int  # in the whole row
    keys: int


@dataclass
class PackedRow(PackedSeqParams):  # type: ignore[misc] # upstream is untyped
    """Megatron-Core's packing record, and what the torch backend needs on the host.

    Args:
        spans: this rank's queries in local order.
        row_order: int64 [row length], restores the row's order from the concatenated tokens of all
            context ranks; None without context parallelism.
        head_positions: int64 [N], local positions at which the LM head runs; None for all.
        head_spans: the queries at these positions.
        rotation: of every token's queries and keys; None where Megatron-Core rotates them.
        query_rotation: of the queries, where they are fewer than the keys.
        chooses: whether the model returns its choices at the answers instead of their losses.
    """

    spans: list[Span] = field(default_factory=list)
    row_order: torch.Tensor | None = None
    head_positions: torch.Tensor | None = None
    head_spans: list[Span] = field(default_factory=list)
    rotation: Rotation | None = None
    query_rotation: Rotation | None = None
    chooses: bool = False

    def of_head(self) -> "PackedRow":
        """Return the record for the LM head's queries only; ``cu_seqlens`` cannot describe them."""
        row = copy(self)
        row.spans, row.cu_seqlens_q = self.head_spans, None
        if self.rotation is not None and self.head_positions is not None:
            row.query_rotation = self.rotation.at(self.head_positions)
        return row


def packed_row(
    lengths: list[int],
    device: torch.device,
    context_size: int = 1,
    context_rank: int = 0,
    head_positions: npt.NDArray[np.int64] | None = None,
) -> PackedRow:
    """Build the packing record of one row.

    Args:
        lengths: padded token count of each sample of the whole row, in order, the same on every
            context rank; each a multiple of 2 x ``context_size`` where that is above 1.
        device: of the tensors.
        context_size: context-parallel size.
        context_rank: this rank's index in the context-parallel group.
        head_positions: int64 [N], positions among this rank's tokens at which the LM head runs.
    """
    # The longest sample, never the row length: given frequencies as long as the whole row,
    # Megatron-Core's THD rotary embedding does not restart positions at each sample.
    longest = max(lengths)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32).to(device)
    row_order = None
    if context_size > 1:
        ranks = [context_indices(lengths, context_size, rank) for rank in range(context_size)]
        row_order = torch.cat(ranks).argsort().to(device)
    spans = _spans(lengths, context_size, context_rank)
    row = PackedRow(
        qkv_format="thd",
        cu_seqlens_q=cu_seqlens,
        cu_seqlens_kv=cu_seqlens,
        cu_seqlens_q_padded=cu_seqlens,
        cu_seqlens_kv_padded=cu_seqlens,
        max_seqlen_q=longest,
        max_seqlen_kv=longest,
        spans=spans,
        row_order=row_order,
    )
    if head_positions is not None:
        row.head_positions = torch.from_numpy(head_positions).to(device, non_blocking=True)
        row.head_spans = _runs(spans, head_positions)
    return row


def context_indices(lengths: list[int], context_size: int, context_rank: int) -> torch.Tensor:
    """Return the row positions of a context rank's tokens, in local order: int64 [T]."""
    if context_size == 1:
        return torch.arange(sum(lengths))
    chunks = [
        torch.arange(start + chunk * size, start + (chunk + 1) * size)
        for start, size in _chunked(lengths, context_size)
        for chunk in _chunks_of(context_size, context_rank)
    ]
    return torch.cat(chunks)


def _spans(lengths: list[int], context_size: int, context_rank: int) -> list[Span]:
    if context_size == 1:
        return [Span(size, start, size) for start, size in _chunked(lengths, context_size)]
    return [
        Span(size, start, (chunk + 1) * size)
        for start, size in _chunked(lengths, context_size)
        for chunk in _chunks_of(context_size, context_rank)
    ]


def _runs(spans: list[Span], positions: npt.NDArray[np.int64]) -> list[Span]:
    """Group the queries at ``positions`` into consecutive ones of the same span."""
    ends = np.cumsum([span.queries for span in spans])
    owners = np.searchsorted(ends, positions, side="right")
    is_last = np.append((np.diff(positions) != 1) | (np.diff(owners) != 0), True)
    lasts = np.flatnonzero(is_last)
    sizes = np.diff(lasts, prepend=-1)
    unseen = ends[owners[lasts]] - 1 - positions[lasts]  # the span's queries after the group
    return [
        Span(size, spans[owner].key_start, spans[owner].keys - later)
        for size, owner, later in zip(
            sizes.tolist(), owners[lasts].tolist(), unseen.tolist(), strict=True
        )
    ]


def _chunked(lengths: list[int], context_size: int) -> list[tuple[int, int]]:
    """Return each sample's start in the row and the size of its chunks."""
    pieces = 2 * context_size if context_size > 1 else 1
    starts = [0]
    for length in lengths:
        assert length % pieces == 0, f"sample of {length} tokens cannot be cut into {pieces} chunks"
        starts.append(starts[-1] + length)
    return [(start, length // pieces) for start, length in zip(starts, lengths, strict=False)]


def _chunks_of(context_size: int, context_rank: int) -> tuple[int, int]:
    return context_rank, 2 * context_size - 1 - context_rank
