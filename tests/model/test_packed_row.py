"""Zigzag chunks: every token once, spans that restore causal attention."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.model.packed_row import Span, context_indices, packed_row

CPU = torch.device("cpu")


def test_two_ranks_have_outer_and_inner_chunks() -> None:
    assert context_indices([8, 4], 2, 0).tolist() == [0, 1, 6, 7, 8, 11]
    assert context_indices([8, 4], 2, 1).tolist() == [2, 3, 4, 5, 9, 10]


@given(chunks=st.lists(st.integers(1, 5), min_size=1, max_size=5), size=st.sampled_from([1, 2, 4]))
def test_every_token_is_on_one_rank_and_order_is_restored(chunks: list[int], size: int) -> None:
    lengths = [2 * size * chunk for chunk in chunks]
    held = [context_indices(lengths, size, rank) for rank in range(size)]
    assert torch.cat(held).sort().values.tolist() == list(range(sum(lengths)))
    row = packed_row(lengths, CPU, size, 0)
    if size > 1:
        assert torch.cat(held)[row.row_order].tolist() == list(range(sum(lengths)))


@given(chunks=st.lists(st.integers(1, 4), min_size=1, max_size=4), size=st.sampled_from([1, 2, 4]))
def test_each_query_run_sees_its_sample_up_to_its_end(chunks: list[int], size: int) -> None:
    lengths = [2 * size * chunk for chunk in chunks]
    starts = [0]
    for length in lengths:
        starts.append(starts[-1] + length)
    for rank in range(size):
        indices = context_indices(lengths, size, rank).tolist()
        for span in packed_row(lengths, CPU, size, rank).spans:
            run, indices = indices[: span.queries], indices[span.queries :]
            assert run == list(range(run[0], run[0] + span.queries))
            assert span.key_start in starts[:-1]
            assert span.key_start + span.keys == run[-1] + 1
        assert not indices


@given(
    chunks=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    size=st.sampled_from([1, 2, 4]),
    padding=st.integers(0, 3),
    data=st.data(),
)
def test_the_heads_runs_see_their_sample_up_to_their_end(
    chunks: list[int], size: int, padding: int, data: st.DataObject
) -> None:
    lengths = [2 * size * chunk for chunk in chunks]
    samples = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum([0, *lengths])
    for rank in range(size):
        indices = context_indices(lengths, size, rank).numpy()
        chosen = data.draw(st.sets(st.integers(0, len(indices) - 1), min_size=1))
        positions = np.array(sorted(chosen) + [0] * padding)
        row = packed_row(lengths, CPU, size, rank, positions)
        assert row.head_positions.tolist() == positions.tolist()
        seen = indices[positions].tolist()
        for span in row.head_spans:
            run, seen = seen[: span.queries], seen[span.queries :]
            assert run == list(range(run[0], run[0] + span.queries))
            assert samples[run[0]] == samples[run[-1]]
            assert span.key_start == starts[samples[run[0]]]
            assert span.key_start + span.keys == run[-1] + 1
        assert not seen


def test_neighbouring_answers_are_one_group_and_boundaries_separate_them() -> None:
    row = packed_row([8, 4], CPU, head_positions=np.array([2, 3, 6, 7, 8, 9, 0]))
    assert row.head_spans == [
        Span(queries=2, key_start=0, keys=4),
        Span(queries=2, key_start=0, keys=8),
        Span(queries=2, key_start=8, keys=2),
        Span(queries=1, key_start=0, keys=1),
    ]


def test_the_longest_sample_is_stated_not_the_row() -> None:
    row = packed_row([16, 48, 32], CPU)
    assert row.max_seqlen_q == 48
    assert row.cu_seqlens_q.tolist() == [0, 16, 64, 96]
    assert row.cu_seqlens_q.dtype == torch.int32
