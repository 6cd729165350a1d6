"""Whether the processes that write a checkpoint get on: one that hangs must not hold up a run.

A forked process can hang before its first instruction, on a lock that another thread held.
"""

import contextlib
from collections.abc import Iterator, Sequence

import psutil


class WriterProgress:
    """Compares what writer processes have done with what they had done at the last look."""

    def __init__(self) -> None:
        self._seen: list[float] = []

    def has_advanced(self, writers: Sequence[int]) -> bool:
        """Return whether a writer has computed or written anything since the last call.

        Args:
            writers: process ids of those that live; without any there is nothing to wait for.
        """
        work = [each for writer in writers for each in _work(writer)]
        advanced = not writers or work != self._seen
        self._seen = work
        return advanced


def _work(writer: int) -> Iterator[float]:
    """Yield seconds of processor time, and bytes where the system tells them, of each process."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(writer)
        for each in (process, *process.children(recursive=True)):
            times = each.cpu_times()
            yield times.user + times.system
            if hasattr(each, "io_counters"):
                yield each.io_counters().write_bytes
