"""Best-fit packing of whole samples into rows, over a bounded window."""

import bisect

from megatron_in2.data.packing.encode import CompactSample

RETURNED_SHARE = 0.1  # of a window's rows, the emptiest, whose samples wait for the next window


def padded_length(length: int, multiple: int) -> int:
    """Round a token count up to the multiple that parallel layouts need."""
    return -(-length // multiple) * multiple


class WindowPacker:
    """Groups samples into rows of at most ``row_length`` padded tokens; none is split.

    Args:
        row_length: tokens of a row; no sample, once padded, may be longer.
        pad_multiple: what each sample's length is rounded up to.
        window: samples held at a time; the larger, the fuller the rows (1,000 fill 97 % on the
            IN2 length distribution, 10,000 fill 98.5 %).
    """

    def __init__(self, row_length: int, pad_multiple: int, window: int) -> None:
        self._row_length = row_length
        self._pad_multiple = pad_multiple
        self._window = window
        self._pending: list[CompactSample] = []

    def add(self, sample: CompactSample) -> list[list[CompactSample]]:
        """Take one sample; return the rows that a full window yields."""
        self._pending.append(sample)
        if len(self._pending) < self._window:
            return []
        rows = self._pack()
        kept = max(1, len(rows) - int(len(rows) * RETURNED_SHARE))
        self._pending = [sample for row in rows[kept:] for sample in row]
        return rows[:kept]

    def flush(self) -> list[list[CompactSample]]:
        """Return the rows of what is left."""
        rows, self._pending = self._pack(), []
        return rows

    def _pack(self) -> list[list[CompactSample]]:
        samples = self._pending
        lengths = [padded_length(sample.length, self._pad_multiple) for sample in samples]
        rows = best_fit(lengths, self._row_length)
        rows.sort(key=lambda row: -sum(lengths[index] for index in row))
        return [[samples[index] for index in row] for row in rows]


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: the longest first, each into the fullest row that still takes it.

    Returns:
        Indices into ``lengths``, row by row.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, row), ascending
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        assert length <= capacity, "a sample longer than a row"
        place = bisect.bisect_left(room, (length, -1))
        if place < len(room):
            left, row = room.pop(place)
            rows[row].append(index)
        else:
            left, row = capacity, len(rows)
            rows.append([index])
        if left > length:
            bisect.insort(room, (left - length, row))
    return rows
