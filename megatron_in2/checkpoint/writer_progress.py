"""Whether the processes that write a checkpoint get on: one that hangs must not hold up a run.

A forked process can hang before its first instruction, on a lock that another thread held.
"""

from collections.abc import Sequence

import psutil


class WriterProgress:
    """Compares what writer processes have done with what they had done at the last look."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, int]] = []

    def has_advanced(self, writers: Sequence[int]) -> bool:
        """Return whether a writer has computed or written anything since the last call.

        Args:
            writers: process ids of those that live; without any there is nothing to wait for.
        """
        work = list(map(_work, writers))
        advanced = not writers or work != self._seen
        self._seen = work
        return advanced


def _work(writer: int) -> tuple[float, int]:
    """Return seconds of processor time and, where the system counts them, bytes written."""
    try:
        process = psutil.Process(writer)
        times = process.cpu_times()
        written = process.io_counters().write_bytes if hasattr(process, "io_counters") else 0
    except psutil.Error:  # it has just ended
        return -1.0, 0
    return times.user + times.system, written
