"""Samples share rows: nothing split, nothing lost, rows full, trained tokens spread."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.data.packing.rows.fit import best_fit, fit_rows

ROW = 2048  # 32,768 tokens in multiples of 16


def _fill(lengths: np.ndarray, rows: np.ndarray, capacity: int) -> float:
    return float(lengths.sum() / ((rows.max() + 1) * capacity))


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 256), max_size=200),
    trained=st.randoms(use_true_random=False),
)
def test_any_lengths_are_packed_whole_and_once(lengths: list[int], trained: object) -> None:
    weights = np.array([trained.randint(0, length) for length in lengths], np.int64)  # type: ignore[attr-defined]
    rows = fit_rows(np.array(lengths, np.int64), weights, 256)
    assert len(rows) == len(lengths)
    if lengths:
        assert np.bincount(rows, lengths).max() <= 256
        assert np.bincount(rows).min() >= 1  # no row is empty


def test_best_fit_takes_the_fullest_row_that_still_has_space() -> None:
    assert best_fit([6, 5, 5, 4, 4], 10) == ([0, 1, 1, 0, 2], 3)


DISTRIBUTIONS = {
    "IN2": (lambda chance: chance.integers(256, 2049, 19_000), 0.975),
    "IN2 with short samples": (
        lambda chance: np.concatenate(
            [chance.integers(256, 2049, 19_000), chance.integers(12, 94, 5000)]
        ),
        0.985,
    ),
    "chats": (
        lambda chance: np.clip(chance.lognormal(3, 0.9, 50_000), 2, 1000).astype(np.int64),
        0.995,
    ),
    "middling": (lambda chance: chance.integers(180, 560, 20_000), 0.97),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_rows_are_full(name: str) -> None:
    draw, least = DISTRIBUTIONS[name]
    lengths = draw(np.random.default_rng(0))
    rows = fit_rows(lengths, lengths // 50 + 1, ROW)
    assert _fill(lengths, rows, ROW) >= least


def test_rows_of_small_samples_hold_all_lengths_and_as_many_trained_tokens() -> None:
    chance = np.random.default_rng(1)
    lengths = chance.integers(2, 100, 50_000)
    trained = lengths // 2 + 1
    rows = fit_rows(lengths, trained, ROW)
    loads = np.bincount(rows, trained)
    longest = np.zeros(rows.max() + 1, np.int64)
    np.maximum.at(longest, rows, lengths)
    full = np.sort(loads)[2:]  # the last rows take what is left
    assert full.std() / full.mean() < 0.02
    assert (longest > 80).mean() > 0.98


def test_small_samples_go_where_few_tokens_are_trained() -> None:
    """Two rows have the same space; the small samples even their trained tokens out."""
    lengths, trained = np.array([1900, 1900, *[20] * 6]), np.array([600, 10, *[100] * 6])
    rows = fit_rows(lengths, trained, ROW)
    assert (rows[2:] == rows[1]).all()
