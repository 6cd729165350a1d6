"""Spreads a function over processes without changing the order of what it gives."""

import itertools
import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

from megatron_in2.processes import die_with_parent, ignore_stop_signals

Item = TypeVar("Item")
Result = TypeVar("Result")

QUEUED_PER_WORKER = 4  # chunks ahead of the consumer: memory stays bounded


def ordered_map(
    build: Callable[[], Callable[[list[Item]], list[Result]]],
    items: Iterable[Item],
    workers: int,
    chunk: int,
) -> Iterator[Result]:
    """Yield the results of all items in their order.

    Args:
        build: makes the function that turns a chunk of items into results; it is called once
            in each process, so that it can open files and load models there.
        items: read no further ahead than a few chunks a worker.
        workers: processes; 1 works in this one.
        chunk: items handed over at once.
    """
    chunks = iter_chunks(items, chunk)
    if workers == 1:
        work = build()
        for batch in chunks:
            yield from work(batch)
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_prepare,
        initargs=(build,),
    ) as pool:
        queue: deque[Future[list[Result]]] = deque()
        try:
            for batch in chunks:
                queue.append(pool.submit(_work, batch))
                if len(queue) > workers * QUEUED_PER_WORKER:
                    yield from queue.popleft().result()
            while queue:
                yield from queue.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def iter_chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield the items in lists of ``size``, the last one shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch


_process_work: Callable[[list], list] | None = None  # type: ignore[type-arg]


def _prepare(build: Callable[[], Callable[[list[Item]], list[Result]]]) -> None:
    """Set this process up: the parent decides when it ends, also by dying itself."""
    global _process_work
    ignore_stop_signals()  # sent to the whole group
    die_with_parent(os.getppid())
    _process_work = build()


def _work(batch: list[Item]) -> list[Result]:
    assert _process_work is not None
    return _process_work(batch)
