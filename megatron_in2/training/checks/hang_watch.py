"""Watches a run for hangs: a thread of every rank, which reports through ``checkpoint.dir``.

The folder is shared by all ranks and needs none of them to answer, so that a stopped rank 0 is
found like any other. A rank that makes no progress for ``runtime.hang_timeout`` writes what it
does; the others see that and write theirs. The first of them names the ranks that did not arrive.
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from megatron_in2.checkpoint.lease import this_process
from megatron_in2.errors import EXIT_UNFIT_NODES
from megatron_in2.files import atomic_file
from megatron_in2.parallel.flight_recorder import GroupProgress, group_progress, recorded_trace
from megatron_in2.parallel.world import World
from megatron_in2.processes import kill_children
from megatron_in2.training.checks.hang_report import (
    HangReport,
    RankPlace,
    absent_ranks,
    describe_hang,
)
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.pulse import Pulse

START_FACTOR = 4  # until the first batch: loading, compiling and connecting take their time
ANSWER_SHARE = 0.2  # of the limit: the time that all ranks get to report
POLL_SHARE = 0.01  # of the limit, between two looks
HANGS = "hangs"
SICK_NODES = "IN2_SICK_NODES"  # a file that takes the names of the nodes to avoid
_VERDICT = "verdict.txt"
_MAX_FRAMES = 40


@dataclass(frozen=True)
class _Watch:
    """What the thread of one rank knows.

    Args:
        folder: of the reports; it exists only once a rank has found a hang.
        seconds: limit; 0 switches the watch off.
        rank: this rank.
        places: of all ranks.
        pulse: this rank's progress.
        main: the thread that trains.
        is_over: set at the end of the run.
        is_hung: set before this rank writes its report.
    """

    folder: Path
    seconds: float
    rank: int
    places: list[RankPlace]
    pulse: Pulse
    main: int
    is_over: threading.Event
    is_hung: threading.Event

    def run(self) -> None:
        while not self.is_over.wait(self.seconds * POLL_SHARE):
            if self.pulse.silent_seconds > self._limit or self.folder.exists():
                self.is_hung.set()
                try:
                    self._report()
                    self._decide()
                except Exception:
                    traceback.print_exc()
                finally:  # a defect here must not leave a run that hangs for ever
                    kill_children()
                    os._exit(EXIT_UNFIT_NODES)

    @property
    def _limit(self) -> float:
        return self.seconds * (1 if self.pulse.is_beating else START_FACTOR)

    def _report(self) -> None:
        stack = traceback.extract_stack(sys._current_frames()[self.main], limit=-_MAX_FRAMES)
        frames = tuple(
            f"{_short(frame.filename)}:{frame.lineno} {frame.name}" for frame in stack[::-1]
        )
        report = HangReport(self.pulse.step, frames, group_progress())
        with contextlib.suppress(OSError):  # a rank that cannot write is named as absent
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"trace_rank_{self.rank}").write_bytes(recorded_trace())
            with atomic_file(self._path(self.rank)) as stream:
                json.dump({"place": asdict(self.places[self.rank]), **asdict(report)}, stream)

    def _decide(self) -> None:
        """Wait for the other ranks' reports; the first rank that has reported speaks."""
        deadline = time.monotonic() + self.seconds * ANSWER_SHARE
        reports: dict[int, HangReport] = {}
        while time.monotonic() < deadline and len(reports) < len(self.places):
            time.sleep(self.seconds * POLL_SHARE)
            reports = self._reports()
        if self.rank == min(reports, default=self.rank):
            self._speak(reports)
        deadline += self.seconds * ANSWER_SHARE
        while time.monotonic() < deadline and not (self.folder / _VERDICT).exists():
            time.sleep(self.seconds * POLL_SHARE)

    def _speak(self, reports: dict[int, HangReport]) -> None:
        absent = absent_ranks(reports, len(self.places))
        machine = self.places[self.rank].machine
        line = describe_hang(absent, reports, self.places, self.pulse.silent_seconds, machine)
        line = f"{line}; stacks and collectives of all ranks: {self.folder}"
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())
            if path := os.environ.get(SICK_NODES):
                nodes = sorted({self.places[rank].node for rank in absent})
                with open(path, "a", encoding="utf-8") as stream:
                    stream.writelines(f"{node}\n" for node in nodes)
            (self.folder / _VERDICT).write_text(f"{line}\n", encoding="utf-8")

    def _reports(self) -> dict[int, HangReport]:
        found = {}
        with contextlib.suppress(OSError):
            # A change of the folder by this host makes NFS forget what it remembers of it.
            (self.folder / f".look-{self.rank}").touch()
            (self.folder / f".look-{self.rank}").unlink()
            for rank in range(len(self.places)):
                if self._path(rank).exists():
                    found[rank] = _read_report(self._path(rank))
        return found

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.json"


def _short(filename: str) -> str:
    """Return a file's path from its package on."""
    for folder in (*sys.path, os.path.dirname(os.path.dirname(threading.__file__))):
        if folder and filename.startswith(f"{folder}{os.sep}"):
            return filename.removeprefix(f"{folder}{os.sep}")
    return filename


def _read_report(path: Path) -> HangReport:
    values = json.loads(path.read_text(encoding="utf-8"))
    groups = {
        name: GroupProgress(tuple(group["ranks"]), group["begun"], group["name"])
        for name, group in values["groups"].items()
    }
    return HangReport(values["step"], tuple(values["stack"]), groups)


@contextlib.contextmanager
def watch_for_hangs(config: TrainConfig, world: World, pulse: Pulse) -> Iterator[None]:
    """End the run with one line and exit code 69 when it makes no progress; collective.

    Args:
        config: ``runtime.hang_timeout`` is the limit in seconds.
        world: this rank's.
        pulse: beats whenever this rank makes progress.
    """
    if not config.runtime.hang_timeout:
        yield
        return
    owner = this_process()
    attempt = [f"{time.strftime('%Y-%m-%dT%H-%M-%S')}-{uuid.uuid4().hex[:6]}"]
    dist.broadcast_object_list(attempt)
    places: list[Any] = [None] * world.size
    node = os.environ.get("SLURMD_NODENAME") or owner.host
    dist.all_gather_object(places, RankPlace(owner.host, node, owner.pid, owner.machine))
    watch = _Watch(
        folder=Path(config.checkpoint.dir) / HANGS / attempt[0],
        seconds=config.runtime.hang_timeout,
        rank=world.rank,
        places=places,
        pulse=pulse,
        main=threading.get_ident(),
        is_over=threading.Event(),
        is_hung=threading.Event(),
    )
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        yield
    finally:
        watch.is_over.set()
        if watch.is_hung.is_set():
            threading.Event().wait()  # the watch ends this process, which has nothing to add
