"""Best-fit packing: nothing split, nothing lost, rows full."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.data.packing.encode import CompactSample
from megatron_in2.data.packing.pack import WindowPacker, best_fit, padded_length


def _sample(index: int, length: int) -> CompactSample:
    return CompactSample(index, "k", length, (bytes(2 * length),), ((1, length),), None)


def _pack(lengths: list[int], row: int, multiple: int, window: int) -> list[list[CompactSample]]:
    packer = WindowPacker(row, multiple, window)
    rows = [r for i, length in enumerate(lengths) for r in packer.add(_sample(i, length))]
    return rows + packer.flush()


@settings(max_examples=100, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 256), max_size=120),
    multiple=st.sampled_from([1, 8, 16]),
    window=st.integers(1, 64),
)
def test_any_lengths_are_packed_whole_and_once(
    lengths: list[int], multiple: int, window: int
) -> None:
    rows = _pack(lengths, 256, multiple, window)
    assert sorted(sample.id_hash for row in rows for sample in row) == list(range(len(lengths)))
    for row in rows:
        assert row
        assert sum(padded_length(sample.length, multiple) for sample in row) <= 256


def test_best_fit_takes_the_fullest_row_that_still_has_room() -> None:
    assert best_fit([5, 6, 4, 5, 4], 10) == [[1, 2], [0, 3], [4]]


def test_rows_of_the_in2_length_distribution_are_98_percent_full() -> None:
    chance = np.random.default_rng(0)
    long = chance.integers(4096, 32_769, 19_000)
    short = chance.integers(200, 1500, 3000)
    lengths = chance.permutation(np.concatenate([long, short])).tolist()
    rows = _pack(lengths, 32_768, 16, 8192)
    assert sum(lengths) / (len(rows) * 32_768) >= 0.98


def test_a_window_of_one_gives_every_sample_a_row() -> None:
    assert [len(row) for row in _pack([10, 20, 30], 256, 16, 1)] == [1, 1, 1]
