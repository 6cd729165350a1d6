"""Tells a run that works from one that hangs."""

import time


class Pulse:
    """When this rank has last made progress; one thread beats, another one reads."""

    def __init__(self) -> None:
        self.step = 0
        self.is_beating = False
        self._last = time.monotonic()

    def beat(self) -> None:
        """Note progress: a batch is read, a part of a checkpoint is written."""
        self._last = time.monotonic()
        self.is_beating = True

    @property
    def silent_seconds(self) -> float:
        """Seconds since the last beat."""
        return time.monotonic() - self._last
