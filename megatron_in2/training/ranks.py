"""How the ranks of a run fare beside each other: time of their own work, and memory.

What is measured. All ranks end a step together, since each waits for the gradients of all, so the
time of a whole step says nothing about one rank. Its *own work* is the time from the step's start
until its gradients are ready, that is, until Megatron-Core begins to reduce them over the
data-parallel ranks: reading and cutting rows, forward and backward. On CUDA both moments are events
on the compute stream. Waiting for the tensor-, context- and pipeline-parallel peers inside is not
taken out: the ranks of one copy of the model go in lockstep and show the same time, so a slow rank
shows as a slow copy.
"""

import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import psutil
import torch
import torch.distributed as dist

from megatron_in2.parallel.world import World
from megatron_in2.training.memory import GIB

NAMED = 8  # slow ranks that one message names


@dataclass(frozen=True)
class RankReport:
    """What one rank tells the others.

    Args:
        host: where it runs.
        own_seconds: mean time of its own work in a step; None where no step was measured.
        memory: GiB by kind: peak ``allocated`` and ``reserved`` on CUDA, ``resident`` on a CPU.
    """

    host: str
    own_seconds: float | None
    memory: dict[str, float]


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


def memory_in_use(device: torch.device) -> dict[str, float]:
    """Return memory in GiB: the allocator's peaks on CUDA, the resident set on a CPU."""
    if device.type == "cuda":
        return {
            "allocated": torch.cuda.max_memory_allocated(device) / GIB,
            "reserved": torch.cuda.max_memory_reserved(device) / GIB,
        }
    return {"resident": psutil.Process().memory_info().rss / GIB}


def report_of_this_rank(device: torch.device, own_work: OwnWork | None = None) -> RankReport:
    """Say how this rank fares, and where it is."""
    seconds = own_work.take_mean_seconds() if own_work else None
    return RankReport(socket.gethostname(), seconds, memory_in_use(device))


def gather_reports(own: RankReport, world: World) -> list[RankReport]:
    """Return every rank's report, in the order of ranks; collective."""
    reports: list[Any] = [None] * world.size
    dist.all_gather_object(reports, own)
    return reports


def fullest(reports: Sequence[RankReport]) -> dict[str, float]:
    """Return the largest memory of any rank, by kind."""
    return {kind: max(each.memory[kind] for each in reports) for kind in reports[0].memory}


def in_words(memory: dict[str, float]) -> str:
    """Write memory by kind for a line."""
    return ", ".join(f"{kind} {size:.2f} GiB" for kind, size in memory.items())


def spread(seconds: Sequence[float]) -> float:
    """Return largest over mean, less 1: the share of time that the others wait."""
    return max(seconds) / fmean(seconds) - 1


def name_stragglers(reports: Sequence[RankReport], threshold: float) -> str | None:
    """Name the ranks whose own work takes by ``threshold`` longer than the mean, slowest first."""
    times = {index: each.own_seconds for index, each in enumerate(reports) if each.own_seconds}
    if not times:
        return None
    mean = fmean(times.values())
    slow = sorted(
        (index for index, seconds in times.items() if seconds > (1 + threshold) * mean),
        key=lambda index: -times[index],
    )
    if not slow:
        return None
    named = ", ".join(
        f"rank {index} on {reports[index].host} {times[index]:.3g} s" for index in slow[:NAMED]
    )
    others = f" and {len(slow) - NAMED} more" if len(slow) > NAMED else ""
    return f"slow ranks, own work a step: {named}{others}; mean of all {mean:.3g} s"
