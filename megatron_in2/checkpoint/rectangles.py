"""Cuts a range of a flattened tensor into rectangles of the tensor.

A data-parallel rank owns a range of each parameter's elements in memory order. A checkpoint knows
rectangles of whole tensors, so that any layout can read them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Rectangle:
    """A contiguous part of a row-major tensor.

    Args:
        start: its first element in the flattened tensor.
        offsets: where it begins on each axis.
        sizes: its length on each axis; all at least 1.
    """

    start: int
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def stop(self) -> int:
        """One behind its last element in the flattened tensor."""
        return self.start + math.prod(self.sizes)


def rectangles(shape: Sequence[int], start: int, stop: int) -> Iterator[Rectangle]:
    """Yield the fewest rectangles that hold elements ``start`` to ``stop`` of a flattened tensor.

    A matrix needs up to three: the end of a row, whole rows, the beginning of a row.

    Args:
        shape: of the tensor, row-major.
        start: first element of the range.
        stop: one behind its last element.
    """
    if start >= stop:
        return
    if not shape:
        yield Rectangle(start, (), ())
        return
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row  # the whole rows
    if first > last:  # inside one row
        yield from _of_row(shape, last, start - last * row, stop - last * row)
        return
    if start < first * row:
        yield from _of_row(shape, first - 1, start - (first - 1) * row, row)
    if first < last:
        whole = (last - first, *shape[1:])
        yield Rectangle(first * row, (first, *(0 for _ in shape[1:])), whole)
    yield from _of_row(shape, last, 0, stop - last * row)


def _of_row(shape: Sequence[int], index: int, start: int, stop: int) -> Iterator[Rectangle]:
    row = math.prod(shape[1:])
    for part in rectangles(shape[1:], start, stop):
        yield Rectangle(index * row + part.start, (index, *part.offsets), (1, *part.sizes))
