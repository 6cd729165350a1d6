"""Deals the rows of a global batch to data-parallel ranks so that none waits for another.

Every row has the same number of tokens, so matrices cost every rank the same; attention does
not: it costs the sum of the squared lengths of the row's samples.
"""

import heapq

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]


def deal_rows(costs: Costs, ranks: int) -> npt.NDArray[np.int64]:
    """Assign a global batch's rows to ranks, each rank as many rows, their costs alike.

    Greedy: the dearest row first, to the rank with the least work that still has room. Each
    rank's rows stand from dearest to cheapest, so that ranks are alike micro-batch by micro-batch.

    Args:
        costs: float64 [rows], what each row costs; a multiple of ``ranks`` rows.
        ranks: data-parallel ranks.

    Returns:
        int64 [ranks, rows / ranks]: indices into ``costs``.
    """
    room = len(costs) // ranks
    assert room * ranks == len(costs)
    dealt: list[list[int]] = [[] for _ in range(ranks)]
    open_ranks = [(0.0, rank) for rank in range(ranks)]
    for row in np.argsort(-costs, kind="stable"):
        work, rank = heapq.heappop(open_ranks)
        dealt[rank].append(int(row))
        if len(dealt[rank]) < room:
            heapq.heappush(open_ranks, (work + float(costs[row]), rank))
    return np.array(dealt, np.int64)


def imbalance(costs: Costs, dealt: npt.NDArray[np.int64]) -> float:
    """Return largest over mean work of the ranks, less 1: the share of time that is waited."""
    work = costs[dealt].sum(axis=1)
    return float(work.max() / work.mean() - 1.0)
