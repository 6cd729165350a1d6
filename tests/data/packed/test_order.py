"""Row order: a permutation an epoch, a pure function of the place."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.data.packed.order import rows_at


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 700), seed=st.integers(-(2**63), 2**64), epoch=st.integers(0, 10**6))
def test_every_epoch_visits_every_row_once(count: int, seed: int, epoch: int) -> None:
    places = np.arange(count, dtype=np.int64) + epoch * count
    assert sorted(rows_at(places, count, seed).tolist()) == list(range(count))


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
