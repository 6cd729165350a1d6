"""Compares the ranks of a run: time of their own work, and memory."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import psutil
import torch
import torch.distributed as dist

from megatron_in2.parallel.world import World
from megatron_in2.training.arithmetic.memory import GIB
from megatron_in2.training.step.own_work import OwnWork

MAX_NAMED = 8  # slow ranks in one message


@dataclass(frozen=True)
class RankStatistics:
    """What one rank reports to the others.

    Args:
        host: its host name.
        own_seconds: mean time of its own work in a step; None where no step was measured.
        memory: GiB by kind: peak ``allocated`` and ``reserved`` on CUDA, ``resident`` on a CPU.
    """

    host: str
    own_seconds: float | None
    memory: dict[str, float]


def memory_in_use(device: torch.device) -> dict[str, float]:
    """Return memory in GiB: the allocator's peaks on CUDA, the resident set on a CPU."""
    if device.type == "cuda":
        return {
            "allocated": torch.cuda.max_memory_allocated(device) / GIB,
            "reserved": torch.cuda.max_memory_reserved(device) / GIB,
        }
    return {"resident": psutil.Process().memory_info().rss / GIB}


def rank_statistics(device: torch.device, own_work: OwnWork | None = None) -> RankStatistics:
    """Return this rank's statistics since the last call."""
    seconds = own_work.take_mean_seconds() if own_work else None
    return RankStatistics(socket.gethostname(), seconds, memory_in_use(device))


def gather_statistics(own: RankStatistics, world: World) -> list[RankStatistics]:
    """Return every rank's statistics, in the order of ranks; every rank must call it."""
    reports: list[Any] = [None] * world.size
    dist.all_gather_object(reports, own)
    return reports


def fullest(reports: Sequence[RankStatistics]) -> dict[str, float]:
    """Return the largest memory of all ranks, by kind, in GiB."""
    return {kind: max(each.memory[kind] for each in reports) for kind in reports[0].memory}


def format_memory(memory: dict[str, float]) -> str:
    """Return memory by kind as text for the step line."""
    return ", ".join(f"{kind} {size:.2f} GiB" for kind, size in memory.items())


def spread(seconds: Sequence[float]) -> float:
    """Return largest over mean, minus 1: the share of time that the other ranks wait."""
    return max(seconds) / fmean(seconds) - 1


def name_stragglers(reports: Sequence[RankStatistics], threshold: float) -> str | None:
    """Return a line with the ranks that are slower than the mean by ``threshold``, slowest first.

    None where there is none, or where no step was measured.
    """
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
        f"rank {index} on {reports[index].host} {times[index]:.3g} s" for index in slow[:MAX_NAMED]
    )
    others = f" and {len(slow) - MAX_NAMED} more" if len(slow) > MAX_NAMED else ""
    return f"slow ranks, own work a step: {named}{others}; mean of all {mean:.3g} s"
