"""Decides from the reports of the ranks which of them did not arrive where the others wait."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.parallel.flight_recorder import GroupProgress

MAX_NAMED = 8  # ranks in one line
MAX_FRAMES = 3  # of a stack in it
# A rank whose stack goes through one of these waits for others.
WAITING = ("torch/distributed/", "megatron/core/")
_STATES = {
    "T": "it is stopped (SIGSTOP, or a debugger)",
    "D": "it waits for a disk or a device",
    "Z": "it is dead",
}


@dataclass(frozen=True)
class RankPlace:
    """Where a rank runs.

    Args:
        host: its host name, for people.
        node: name of its node, for the scheduler.
        pid: its process id.
        machine: identity of the kernel that counts the process ids.
    """

    host: str
    node: str
    pid: int
    machine: str


@dataclass(frozen=True)
class HangReport:
    """What a rank says of itself during a hang.

    Args:
        step: optimizer steps done.
        stack: its main thread, innermost frame first: ``FILE:LINE FUNCTION``.
        groups: its progress in each process group.
    """

    step: int
    stack: tuple[str, ...]
    groups: Mapping[str, GroupProgress]


def absent_ranks(reports: Mapping[int, HangReport], world_size: int) -> list[int]:
    """Return the ranks that the others wait for.

    Ranks that say nothing, because they are stopped or gone; else those that have begun fewer
    collectives of a group than its other ranks, and do not themselves wait in another; else those
    that do not wait in any. None of these may hold for a fault of the network.

    Args:
        reports: of the ranks that have answered.
        world_size: number of all ranks.
    """
    silent = sorted(set(range(world_size)) - set(reports))
    if silent:
        return silent
    furthest: dict[str, int] = {}
    for report in reports.values():
        for name, group in report.groups.items():
            furthest[name] = max(furthest.get(name, 0), group.begun)
    behind = [
        rank
        for rank, report in sorted(reports.items())
        if any(group.begun < furthest[name] for name, group in report.groups.items())
    ]
    busy = [rank for rank, report in sorted(reports.items()) if not _is_waiting(report.stack)]
    return [rank for rank in behind if rank in busy] or behind or busy


def describe_hang(
    absent: Sequence[int],
    reports: Mapping[int, HangReport],
    places: Sequence[RankPlace],
    seconds: float,
    machine: str,
) -> str:
    """Return one line: the ranks that did not arrive, with host and stack, and what others do.

    Args:
        absent: from :func:`absent_ranks`.
        reports: of the ranks that have answered.
        places: of all ranks.
        seconds: how long nothing has happened.
        machine: identity of this rank's kernel: it can look at other processes of its own.
    """
    named = [
        f"rank {rank} on {places[rank].node} did not arrive "
        f"({_account(rank, reports, places, machine)})"
        for rank in absent[:MAX_NAMED]
    ]
    if len(absent) > MAX_NAMED:
        named.append(f"and {len(absent) - MAX_NAMED} more ranks")
    if not absent:
        named = ["every rank waits and none is behind: the network has lost a message"]
    waiting = [report for rank, report in sorted(reports.items()) if rank not in absent]
    others = f"; the others ({len(waiting)}) wait at {_where(waiting[0].stack)}" if waiting else ""
    step = max((report.step for report in reports.values()), default=0)
    return f"no progress for {seconds:.0f} s after step {step}: {'; '.join(named)}{others}"


def _account(
    rank: int, reports: Mapping[int, HangReport], places: Sequence[RankPlace], machine: str
) -> str:
    if rank in reports:
        return f"at {_where(reports[rank].stack)}"
    if places[rank].machine != machine:
        return "no answer from it"
    try:
        status = Path(f"/proc/{places[rank].pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "no answer from it: its process is gone"
    return f"no answer: {_STATES.get(status.rpartition(')')[2].split()[0], 'it is busy')}"


def _where(stack: Sequence[str]) -> str:
    return " < ".join(stack[:MAX_FRAMES]) or "an unknown place"


def _is_waiting(stack: Sequence[str]) -> bool:
    return any(part in frame for part in WAITING for frame in stack[:MAX_FRAMES])
