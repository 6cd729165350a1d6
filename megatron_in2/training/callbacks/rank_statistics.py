"""How the ranks of a run compare: the time of their own work, and their memory."""

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

NAMED = 8  # slow ranks that one message names


@dataclass(frozen=True)
class RankStatistics:
    """What one rank tells the others.

    Args:
        host: where it runs.
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
    """Say how this rank fares, and where it is."""
    seconds = own_work.take_mean_seconds() if own_work else None
    return RankStatistics(socket.gethostname(), seconds, memory_in_use(device))


def gather_statistics(own: RankStatistics, world: World) -> list[RankStatistics]:
    """Return every rank's report, in the order of ranks; collective."""
    reports: list[Any] = [None] * world.size
    dist.all_gather_object(reports, own)
    return reports


def fullest(reports: Sequence[RankStatistics]) -> dict[str, float]:
    """Return the largest memory of any rank, by kind."""
    return {kind: max(each.memory[kind] for each in reports) for kind in reports[0].memory}


def format_memory(memory: dict[str, float]) -> str:
    """Write memory by kind for a line."""
    return ", ".join(f"{kind} {size:.2f} GiB" for kind, size in memory.items())


def spread(seconds: Sequence[float]) -> float:
    """Return largest over mean, less 1: the share of time that the others wait."""
    return max(seconds) / fmean(seconds) - 1


def name_stragglers(reports: Sequence[RankStatistics], threshold: float) -> str | None:
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
