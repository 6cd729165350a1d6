"""The time of a rank's own work in a step.

Each rank waits for the gradients of all others, so all ranks end a step together and the time of
a whole step does not show a slow rank. A rank's *own work* is the time from the start of the step
until Megatron-Core begins to reduce its gradients over the data-parallel ranks: reading and
cutting rows, forward and backward. On CUDA, both moments are events on the compute stream. The
time includes waiting for tensor-, context- and pipeline-parallel peers: the ranks of one copy of
the model run in lockstep and have the same time, so a slow rank shows as a slow copy.
"""

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch


class OwnWork:
    """Measures the own work of this rank's steps, except the first one of a start (warm-up).

    Args:
        device: where this rank computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._started: Any = None
        self._spans: list[tuple[Any, Any]] = []
        self._is_warm = False

    def start(self) -> None:
        """Mark the start of a step."""
        self._started = self._now()

    def stop(self) -> None:
        """Mark that its gradients are ready. Outside a step this has no effect."""
        if self._started is not None and self._is_warm:
            self._spans.append((self._started, self._now()))
        self._is_warm = self._is_warm or self._started is not None
        self._started = None

    def take_mean_seconds(self) -> float | None:
        """Return the mean over the steps since the last call; None where there is none."""
        spans, self._spans = self._spans, []
        return fmean(self._seconds(*span) for span in spans) if spans else None

    def _now(self) -> Any:
        if not self._is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()  # type: ignore[no-untyped-call]
        return event

    def _seconds(self, started: Any, stopped: Any) -> float:
        if not self._is_cuda:
            return float(stopped - started)
        return float(started.elapsed_time(stopped)) / 1000


def stops_when_called(work: OwnWork, function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``function``, which runs once the gradients are ready, so that it stops ``work``."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        work.stop()
        return function(*arguments, **named)

    return wrapped
