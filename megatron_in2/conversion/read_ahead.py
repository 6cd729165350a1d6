"""Reads the next tensor while this one is written."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


def read_ahead(read: Callable[[Key], Value], keys: Iterable[Key]) -> Iterator[Value]:
    """Yield ``read(key)`` for each key, in order; the next is read meanwhile, on one thread.

    At most two values are held here. What ``read`` raises is raised when its turn comes.
    """
    with ThreadPoolExecutor(max_workers=1) as thread:
        pending: Future[Value] | None = None
        for key in keys:
            following = thread.submit(read, key)
            if pending is not None:
                yield pending.result()
            pending = following
        if pending is not None:
            yield pending.result()
