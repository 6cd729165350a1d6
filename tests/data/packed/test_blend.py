"""Blending: shares, epochs, purity."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.data.packed.blend import BLOCK, Blend
from megatron_in2.data.packed.order import mixed_key, rows_at
from megatron_in2.errors import InputError


@settings(max_examples=30, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=5),
    seed=st.integers(0, 2**63),
)
def test_shares_are_the_weights(weights: list[float], seed: int) -> None:
    blend = Blend((BLOCK,) * len(weights), tuple(weights), seed)
    datasets, _ = blend.rows_at(np.arange(2 * BLOCK))
    shares = np.bincount(datasets, minlength=len(weights)) / (2 * BLOCK)
    assert np.abs(shares - np.array(weights) / sum(weights)).max() <= 1 / BLOCK


def test_every_row_once_an_epoch_of_its_dataset() -> None:
    blend = Blend((1300, 450), (3, 1), 5)
    datasets, rows = blend.rows_at(np.arange(3 * BLOCK))
    for dataset, count in enumerate(blend.row_counts):
        own = rows[datasets == dataset]
        # Readings come in any order inside a block, so whole blocks are counted.
        visits = np.bincount(own, minlength=count)
        assert visits.max() - visits.min() <= 1


def test_a_place_depends_on_nothing_but_itself() -> None:
    blend = Blend((1000, 10, 333), (0.5, 0.2, 0.3), 42)
    datasets, rows = blend.rows_at(np.arange(30_000))
    some = [29_999, 0, 12_345, 17]
    again = Blend((1000, 10, 333), (5, 2, 3), 42).rows_at(some)
    assert again[0].tolist() == datasets[some].tolist()
    assert again[1].tolist() == rows[some].tolist()
    far_datasets, far_rows = blend.rows_at([10**15])
    assert 0 <= far_rows[0] < blend.row_counts[far_datasets[0]]


def test_blends_of_format_2_keep_their_order() -> None:
    datasets, rows = Blend((1000, 10, 333), (0.5, 0.2, 0.3), 42).rows_at(np.arange(12_000))
    digest = hashlib.sha256(datasets.tobytes() + rows.tobytes()).hexdigest()
    assert digest[:16] == "b8908f8f8c03309c"


@settings(max_examples=40, deadline=None)
@given(
    weights=st.lists(st.floats(0.01, 10), min_size=1, max_size=6),
    seed=st.integers(0, 2**63),
    start=st.integers(0, 3 * BLOCK),
    size=st.integers(1, 500),
)
def test_balanced_datasets_share_every_run_of_places(
    weights: list[float], seed: int, start: int, size: int
) -> None:
    number = len(weights)
    blend = Blend((BLOCK,) * number, tuple(weights), seed, (16,) * number)
    datasets, _ = blend.rows_at(np.arange(start, start + size))
    exact = size * np.array(blend.places_per_block) / BLOCK
    # Each dataset is split off what the ones before it leave: every split rounds once.
    assert np.abs(np.bincount(datasets, minlength=number) - exact).max() < number + 1


def test_balanced_datasets_are_read_in_their_own_order() -> None:
    blend = Blend((1300, 450), (3, 1), 5, (16, 0))
    datasets, rows = blend.rows_at(np.arange(3 * BLOCK))
    for dataset, (count, unit) in enumerate(zip(blend.row_counts, blend.unit_rows, strict=True)):
        own = rows[datasets == dataset]
        key = mixed_key(5, -1 - dataset)
        assert own.tolist() == rows_at(np.arange(len(own)), count, key, unit).tolist()


def test_seeds_and_blocks_give_other_orders() -> None:
    places = np.arange(BLOCK)
    blend, other = Blend((50, 50), (1, 1), 1), Blend((50, 50), (1, 1), 2)
    first, second = blend.rows_at(places)[0], other.rows_at(places)[0]
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, blend.rows_at(places + BLOCK)[0])


@pytest.mark.parametrize(
    ("rows", "weights", "complaint"),
    [
        ((1, 2), (1.0,), "1 weights for 2 datasets"),
        ((1, 0), (1.0, 1.0), "no rows"),
        ((1, 1), (1.0, 0.0), "above 0"),
        ((1, 1), (1.0, float("nan")), "above 0"),
        ((1, 1), (1.0, 1e-6), "leave it out"),
    ],
)
def test_what_cannot_be_blended(
    rows: tuple[int, ...], weights: tuple[float, ...], complaint: str
) -> None:
    with pytest.raises(InputError, match=complaint):
        Blend(rows, weights, 0)
