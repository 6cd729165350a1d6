"""Which samples share a row: whole samples, full rows, trained tokens spread evenly.

Large samples go first, by best fit decreasing: only it finds the partners that fill a row. Then
small samples, the longest first, go to the row with the fewest trained tokens that has space for
them: so no row collects all small samples, and rows of small samples alone hold samples of all
lengths. Time is O(n log n); memory some 200 bytes a sample.
"""

import bisect
import heapq

import numpy as np
import numpy.typing as npt

SMALL_SHARE = 16  # a sample is small where so many of its length fit in a row

Ints = npt.NDArray[np.int64]


def padded_length(length: int, multiple: int) -> int:
    """Round a token count up to the multiple that parallel layouts need."""
    return -(-length // multiple) * multiple


def fit_rows(lengths: Ints, trained: Ints, capacity: int) -> Ints:
    """Assign samples to rows; none is split.

    Args:
        lengths: of the samples, int64 [n], none above ``capacity``. The result depends on their
            order only among samples of equal length.
        trained: trained tokens of each, int64 [n].
        capacity: of a row, in the unit of ``lengths``.

    Returns:
        The row of each sample, int64 [n], from 0; no row is empty.
    """
    assert not len(lengths) or lengths.max() <= capacity, "a sample longer than a row"
    rows = np.full(len(lengths), -1, np.int64)
    order = np.argsort(-lengths, kind="stable")
    is_large = lengths[order] * SMALL_SHARE > capacity
    large, small = order[is_large], order[~is_large]
    rows[large], count = best_fit(lengths[large].tolist(), capacity)
    spaces = capacity - np.bincount(rows[large], lengths[large], count).astype(np.int64)
    loads = np.bincount(rows[large], trained[large], count).astype(np.int64)
    rows[small] = _spread(lengths[small], trained[small], spaces, loads, capacity)
    return np.unique(rows, return_inverse=True)[1].astype(np.int64)


def best_fit(lengths: list[int], capacity: int) -> tuple[list[int], int]:
    """Put each sample in the fullest row that still has space for it, else in a new row.

    Args:
        lengths: in the order in which the samples are placed; descending gives full rows.
        capacity: of a row.

    Returns:
        (the row of each sample, number of rows).
    """
    rows: list[int] = []
    count = 0
    by_space: dict[int, list[int]] = {}  # space left -> rows that have it
    spaces: list[int] = []  # its keys, ascending
    for length in lengths:
        place = bisect.bisect_left(spaces, length)
        if place < len(spaces):
            space = spaces[place]
            row = by_space[space].pop()
            if not by_space[space]:
                del by_space[space], spaces[place]
        else:
            row, space, count = count, capacity, count + 1
        rows.append(row)
        if left := space - length:
            if left not in by_space:
                by_space[left] = []
                bisect.insort(spaces, left)
            by_space[left].append(row)
    return rows, count


def _spread(lengths: Ints, trained: Ints, spaces: Ints, loads: Ints, capacity: int) -> Ints:
    """Put each sample in the row of the smallest load that has space for it.

    Args:
        lengths: int64 [n], descending.
        trained: what each sample adds to a row's load, int64 [n].
        spaces: left in each row that exists, int64 [rows].
        loads: trained tokens of each row that exists, int64 [rows].
        capacity: of a row.

    Returns:
        The row of each sample, int64 [n].
    """
    new = _rows_to_open(lengths, spaces, capacity)
    space, load = [*spaces.tolist(), *[capacity] * new], [*loads.tolist(), *[0] * new]
    # Rows wait by their space until samples are short enough for them; lengths only fall.
    waiting: list[list[int]] = [[] for _ in range(capacity + 1)]
    for row, left in enumerate(space):
        waiting[left].append(row)
    ready: list[int] = []  # a heap of load * 2^32 + row
    level = capacity + 1
    placed: list[int] = []
    for length, weight in zip(lengths.tolist(), trained.tolist(), strict=True):
        while level > length:
            level -= 1
            for row in waiting[level]:
                heapq.heappush(ready, load[row] << 32 | row)
            waiting[level] = []
        if ready:
            row = heapq.heappop(ready) & 0xFFFFFFFF
        else:
            row = len(space)
            space.append(capacity)
            load.append(0)
        placed.append(row)
        space[row] -= length
        load[row] += weight
        if space[row] >= length:
            heapq.heappush(ready, load[row] << 32 | row)
        else:
            waiting[space[row]].append(row)
    return np.array(placed, np.int64)


def _rows_to_open(lengths: Ints, spaces: Ints, capacity: int) -> int:
    """Estimate how many new rows small samples need beside the space that is left."""
    if not len(lengths):
        return 0
    usable = int(spaces[spaces >= lengths.mean()].sum())
    return max(-(-(int(lengths.sum()) - usable) // capacity), 0)
