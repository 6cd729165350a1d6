"""One value is read ahead, in order, and errors come at their turn."""

import threading

import pytest

from megatron_in2.conversion.read_ahead import read_ahead


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_order(count: int) -> None:
    assert list(read_ahead(str, range(count))) == [str(i) for i in range(count)]


def test_the_next_is_read_meanwhile_and_no_more() -> None:
    begun = [threading.Event() for _ in range(4)]

    def read(key: int) -> int:
        begun[key].set()
        return key

    values = read_ahead(read, range(4))
    assert next(values) == 0
    assert begun[1].wait(10)
    assert not begun[2].is_set()
    assert list(values) == [1, 2, 3]


def test_errors_come_at_their_turn() -> None:
    values = read_ahead(lambda key: 1 // key, [1, 0, 1])
    assert next(values) == 1
    with pytest.raises(ZeroDivisionError):
        next(values)
