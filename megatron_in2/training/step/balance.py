"""Assigns the rows of a global batch to data-parallel ranks with about equal work.

Every row has the same number of tokens, so matrix products cost the same on every rank. The cost
of attention differs: it is the sum of the squared lengths of the row's samples.
"""

import heapq

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]


def assign_rows(costs: Costs, ranks: int) -> npt.NDArray[np.int64]:
    """Assign the same number of rows to every rank, with about equal total costs.

    Greedy: rows in descending order of cost, each to the rank with the least work so far that has
    not all its rows yet. Each rank's rows are sorted from expensive to cheap, so that the ranks'
    work is similar in every micro-batch, not only in the sum.

    Args:
        costs: float64 [rows], cost of each row; the number of rows is a multiple of ``ranks``.
        ranks: data-parallel ranks.

    Returns:
        int64 [ranks, rows / ranks]: indices into ``costs``.
    """
    rows_per_rank = len(costs) // ranks
    assert rows_per_rank * ranks == len(costs)
    assigned: list[list[int]] = [[] for _ in range(ranks)]
    open_ranks = [(0.0, rank) for rank in range(ranks)]
    for row in np.argsort(-costs, kind="stable"):
        work, rank = heapq.heappop(open_ranks)
        assigned[rank].append(int(row))
        if len(assigned[rank]) < rows_per_rank:
            heapq.heappush(open_ranks, (work + float(costs[row]), rank))
    return np.array(assigned, np.int64)


def imbalance(costs: Costs, assigned: npt.NDArray[np.int64]) -> float:
    """Return the largest over the mean work of the ranks, minus 1: the share of idle time.

    Args:
        costs: float64 [rows].
        assigned: int64 [ranks, rows / ranks], from :func:`assign_rows`.
    """
    work = costs[assigned].sum(axis=1)
    return float(work.max() / work.mean() - 1.0)
