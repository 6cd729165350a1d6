"""Row order: a permutation an epoch, a pure function of the place."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.data.packed.order import rows_at


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 700), seed=st.integers(-(2**63), 2**64), epoch=st.integers(0, 10**6))
def test_every_epoch_visits_every_row_once(count: int, seed: int, epoch: int) -> None:
    places = np.arange(count, dtype=np.int64) + epoch * count
    assert sorted(rows_at(places, count, seed).tolist()) == list(range(count))


@settings(max_examples=100, deadline=None)
@given(
    count=st.integers(1, 300),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 100),
    unit=st.sampled_from([1, 4, 16]),
)
def test_balanced_units_are_visited_whole(count: int, seed: int, epoch: int, unit: int) -> None:
    places = np.arange(count, dtype=np.int64) + epoch * count
    rows = rows_at(places, count, seed, unit)
    assert sorted(rows.tolist()) == list(range(count))
    whole = count // unit * unit
    units = rows[:whole].reshape(-1, unit) // unit
    assert (units == units[:, :1]).all()
    assert sorted(rows[whole:].tolist()) == list(range(whole, count))
    assert rows_at(places[::-3], count, seed, unit).tolist() == rows[::-3].tolist()
    halves = rows[:whole].reshape(-1, max(unit // 2, 1)) // max(unit // 2, 1)
    assert (halves == halves[:, :1]).all()


def test_datasets_of_format_2_keep_their_order() -> None:
    """What a run of format 2 reads next may not change: it would resume to other rows."""
    rows = rows_at(np.arange(3000), 777, 1234)
    assert rows[:5].tolist() == [305, 247, 425, 279, 205]
    assert hashlib.sha256(rows.tobytes()).hexdigest()[:16] == "45a7b6ca3891da8a"


def test_a_place_depends_on_nothing_but_itself() -> None:
    whole = rows_at(np.arange(5000), 777, 3)
    assert rows_at(np.array([4999, 1, 776, 777]), 777, 3).tolist() == [
        whole[index] for index in (4999, 1, 776, 777)
    ]


def test_epochs_and_seeds_differ_and_look_random() -> None:
    count = 4096
    first = rows_at(np.arange(count), count, 0)
    assert not np.array_equal(first, rows_at(np.arange(count) + count, count, 0))
    assert not np.array_equal(first, rows_at(np.arange(count), count, 1))
    assert abs(np.corrcoef(first, np.arange(count))[0, 1]) < 0.1
    assert (np.diff(first) == 1).sum() < 10
