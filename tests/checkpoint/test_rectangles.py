"""A range of a flattened tensor is exactly the rectangles that it is cut into."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.checkpoint.rectangles import Rectangle, rectangles


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_they_hold_the_range_in_order(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    count = math.prod(shape)
    start = data.draw(st.integers(0, count))
    stop = data.draw(st.integers(start, count))
    whole = np.arange(count).reshape(shape)
    found: list[int] = []
    for each in rectangles(shape, start, stop):
        place = tuple(slice(a, a + size) for a, size in zip(each.offsets, each.sizes, strict=True))
        part = whole[place].ravel().tolist()
        assert part == list(range(each.start, each.stop))
        found += part
    assert found == list(range(start, stop))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 12, [Rectangle(0, (0, 0), (3, 4))]),
        (5, 7, [Rectangle(5, (1, 1), (1, 2))]),
        (2, 4, [Rectangle(2, (0, 2), (1, 2))]),
        (
            3,
            10,
            [
                Rectangle(3, (0, 3), (1, 1)),
                Rectangle(4, (1, 0), (1, 4)),
                Rectangle(8, (2, 0), (1, 2)),
            ],
        ),
        (6, 6, []),
    ],
)
def test_a_matrix_needs_at_most_three(start: int, stop: int, expected: list[Rectangle]) -> None:
    assert list(rectangles((3, 4), start, stop)) == expected
