"""The time of a rank's own work in a step.

All ranks end a step together, since each waits for the gradients of all, so the time of a whole
step says nothing about one rank. A rank's *own work* lasts from the start of the step until its
gradients are ready, that is, until Megatron-Core begins to reduce them over the data-parallel
ranks: reading and cutting rows, forward and backward. On CUDA both moments are events on the
compute stream. Waiting for the tensor-, context- and pipeline-parallel peers is included: the
ranks of one copy of the model run in lockstep and show the same time, so a slow rank shows as a
slow copy.
"""

import time
from collections.abc import Callable
from statistics import fmean
from typing import Any

import torch


class OwnWork:
    """Measures the own work of this rank's steps but the first of a start, which warms up.

    Args:
        device: where this rank computes.
    """

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._started: Any = None
        self._spans: list[tuple[Any, Any]] = []
        self._is_warm = False

    def start(self) -> None:
        """A step begins."""
        self._started = self._now()

    def stop(self) -> None:
        """Its gradients are ready; outside a step this counts for nothing."""
        if self._started is not None and self._is_warm:
            self._spans.append((self._started, self._now()))
        self._is_warm = self._is_warm or self._started is not None
        self._started = None

    def take_mean_seconds(self) -> float | None:
        """Return the mean of the steps since it was last asked for."""
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
    """Wrap what is called once the gradients are ready, so that it ends the measured span."""

    def wrapped(*arguments: Any, **named: Any) -> Any:
        work.stop()
        return function(*arguments, **named)

    return wrapped
