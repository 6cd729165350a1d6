"""Rows are assigned evenly: each once, the same number to each rank."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.training.step.balance import assign_rows, imbalance


@given(
    ranks=st.sampled_from([1, 2, 4, 8]),
    rows=st.integers(1, 6),
    seed=st.integers(0, 100),
)
def test_every_row_goes_to_one_rank(ranks: int, rows: int, seed: int) -> None:
    costs = np.random.default_rng(seed).uniform(1, 10, ranks * rows)
    assigned = assign_rows(costs, ranks)
    assert assigned.shape == (ranks, rows)
    assert sorted(assigned.flatten().tolist()) == list(range(len(costs)))
    for own in assigned:
        assert (np.diff(costs[own]) <= 0).all()


def test_literal_assignment() -> None:
    costs = np.array([1.0, 8.0, 2.0, 7.0])
    assert assign_rows(costs, 2).tolist() == [[1, 0], [3, 2]]
    assert imbalance(costs, assign_rows(costs, 2)) == 0.0
    assert imbalance(costs, np.array([[0, 2], [1, 3]])) == 15 / 9 - 1


def test_it_is_more_even_than_plain_order() -> None:
    chance = np.random.default_rng(0)
    plain, assigned = [], []
    for _ in range(50):
        costs = 1.0 + chance.random(64)
        plain.append(imbalance(costs, np.arange(64).reshape(16, 4)))
        assigned.append(imbalance(costs, assign_rows(costs, 16)))
    assert np.mean(assigned) < np.mean(plain) / 10
