"""One packed row as the model sees it: sample borders, and what of them a context rank holds.

Context parallelism cuts each sample in 2 x CP equal chunks; rank r holds chunks r and
2 x CP - 1 - r (zigzag), so that causal attention costs every rank the same. This is the order
that Megatron-Core's THD rotary embedding and Transformer Engine expect.
"""

from copy import copy
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from megatron.core.packed_seq_params import PackedSeqParams


class Span(NamedTuple):
    """A run of queries of one sample and the keys, from the sample's start, that it may see."""

    queries: int
    key_start: int  # in the whole row
    keys: int


@dataclass
class PackedRow(PackedSeqParams):  # type: ignore[misc] # upstream is untyped
    """Megatron-Core's packing record, with what the torch backend needs kept on the host.

    ``spans`` lists this rank's runs of queries in local order; ``row_order`` restores the row's
    order from the concatenation of all context ranks' tokens (None without context parallelism).
    ``head_positions``, int64 [N], says where, in local order, the LM head reads the last hidden
    states (None: everywhere), ``head_spans`` what those queries see.
    """

    spans: list[Span] = field(default_factory=list)
    row_order: torch.Tensor | None = None
    head_positions: torch.Tensor | None = None
    head_spans: list[Span] = field(default_factory=list)

    def of_head(self) -> "PackedRow":
        """Return the row with the LM head's queries alone, which have no borders of their own."""
        row = copy(self)
        row.spans, row.cu_seqlens_q = self.head_spans, None
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
        device: where the tensors must lie.
        context_size: context-parallel size.
        context_rank: this rank's index in the context-parallel group.
        head_positions: int64 [N], of this rank's tokens those at which the LM head is asked for.
    """
    # The longest sample, never the row length: Megatron-Core's THD rotary takes frequencies as
    # long as the whole row for positions that do not restart at each sample.
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
    """Return the row positions (int64, ascending per chunk) that a context rank holds, in order."""
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
    """Cut queries at ``positions`` into runs of neighbours of one span, and what each run sees."""
    ends = np.cumsum([span.queries for span in spans])
    owners = np.searchsorted(ends, positions, side="right")
    is_last = np.append((np.diff(positions) != 1) | (np.diff(owners) != 0), True)
    lasts = np.flatnonzero(is_last)
    sizes = np.diff(lasts, prepend=-1)
    unseen = ends[owners[lasts]] - 1 - positions[lasts]  # the span's queries behind the run
    return [
        Span(size, spans[owner].key_start, spans[owner].keys - behind)
        for size, owner, behind in zip(
            sizes.tolist(), owners[lasts].tolist(), unseen.tolist(), strict=True
        )
    ]


def _chunked(lengths: list[int], context_size: int) -> list[tuple[int, int]]:
    """Each sample's start in the row and the size of its chunks."""
    pieces = 2 * context_size if context_size > 1 else 1
    starts = [0]
    for length in lengths:
        assert length % pieces == 0, f"sample of {length} tokens cannot be cut in {pieces} chunks"
        starts.append(starts[-1] + length)
    return [(start, length // pieces) for start, length in zip(starts, lengths, strict=False)]


def _chunks_of(context_size: int, context_rank: int) -> tuple[int, int]:
    return context_rank, 2 * context_size - 1 - context_rank
