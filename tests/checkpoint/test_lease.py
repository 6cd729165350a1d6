"""One run owns a checkpoint folder; a lease whose owner is gone is taken over."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.checkpoint import lease
from megatron_in2.checkpoint.lease import (
    STALE_SECONDS,
    Owner,
    require_no_owner,
    take_lease,
    this_process,
)
from megatron_in2.errors import InputError
from tests.conftest import ROOT, RunTool, assert_refused
from tests.test_processes import END_SECONDS
from tests.training.conftest import WriteConfig


def _elsewhere(token: str = "other") -> Owner:
    return Owner("node07", 4711, 0.0, "another machine", job="12", start=0, token=token)


def _leave(folder: Path, owner: Owner, age: float = 0.0) -> Path:
    """Leave the lease of an owner that has ended without releasing it."""
    held = take_lease(folder, owner)
    held._is_over.set()
    held._thread.join()
    (path,) = folder.glob(".owner-*.json")
    os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    return path


def test_a_second_owner_is_refused_and_a_released_folder_is_free(tmp_path: Path) -> None:
    held = take_lease(tmp_path / "run", this_process())
    for refused in (take_lease, require_no_owner):
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on "):
            refused(tmp_path / "run", this_process())
    held.release()
    require_no_owner(tmp_path / "run", this_process())
    for number in (2, 3):
        again = take_lease(tmp_path / "run", this_process())
        assert again.taken_from is None
        again.release()
        assert [path.name for path in (tmp_path / "run").iterdir()] == [f".owner-{number:06d}.json"]


def test_of_many_newcomers_one_takes_a_left_lease_over(tmp_path: Path) -> None:
    _leave(tmp_path, _elsewhere(), age=2 * STALE_SECONDS)
    barrier = threading.Barrier(8)

    def run(number: int) -> lease.Lease | None:
        barrier.wait()
        try:
            return take_lease(tmp_path, this_process(), watch_seconds=0.0)
        except InputError:
            return None

    with ThreadPoolExecutor(8) as threads:
        held = [each for each in threads.map(run, range(8)) if each]
    assert len(held) == 1
    assert held[0].taken_from == _elsewhere()
    held[0].release()


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    _leave(tmp_path, replace(this_process(), pid=gone.pid))
    held = take_lease(tmp_path, this_process(), watch_seconds=600)
    assert held.taken_from is not None
    assert held.taken_from.pid == gone.pid
    held.release()


def test_a_requeued_job_takes_over_from_its_former_start_only(tmp_path: Path) -> None:
    _leave(tmp_path, _elsewhere())
    first = replace(_elsewhere("new"), machine="a third")
    for other in (first, replace(first, job="13", start=1), replace(first, job="")):
        with pytest.raises(InputError, match=r"process 4711 on node07, job 12 .*start again in 60"):
            take_lease(tmp_path, other)
    held = take_lease(tmp_path, replace(first, start=1), watch_seconds=600)
    assert held.taken_from == _elsewhere()
    held.release()


def test_each_start_of_the_ranks_in_a_job_comes_after_the_one_before() -> None:
    starts = [
        this_process({"SLURM_RESTART_COUNT": restarts, "IN2_ATTEMPT": attempt}).start
        for restarts in ("0", "1")
        for attempt in ("0", "1", "12")
    ]
    assert starts == sorted(set(starts))
    assert this_process({}).start == starts[0]


def test_a_live_owner_keeps_its_lease_when_the_clock_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _leave(tmp_path, _elsewhere(), age=100 * STALE_SECONDS)
    monkeypatch.setattr(lease.time, "sleep", lambda seconds: os.utime(path, (1.0, 2.0)))
    with pytest.raises(InputError, match="in use by process 4711"):
        take_lease(tmp_path, this_process(), watch_seconds=600)


HOLDER = """
import sys
from pathlib import Path
from megatron_in2.checkpoint import lease
lease.HEARTBEAT_SECONDS = 0.02
lease.take_lease(Path(sys.argv[1]), lease.this_process())
print("held", flush=True)
sys.stdin.read()
"""


def test_the_former_owner_ends_when_its_lease_is_taken_over(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert lease._create(tmp_path, 2, _elsewhere())
    assert holder.wait(timeout=END_SECONDS) == 2
    line = f"{tmp_path} was taken over by process 4711 on node07, job 12: this run ends\n"
    assert holder.communicate()[1] == line


def test_a_torn_lease_holds_nothing(tmp_path: Path) -> None:
    _leave(tmp_path, _elsewhere()).write_text("{")
    held = take_lease(tmp_path, this_process())
    assert held.taken_from is None
    held.release()


def test_a_second_run_is_refused(
    tmp_path: Path, run_tool: RunTool, write_config: WriteConfig
) -> None:
    config = write_config(tmp_path / "run")
    held = take_lease(tmp_path / "run", this_process())
    result = run_tool("train", "--config", config, "--nproc", 2)
    assert_refused(result, f"checkpoint.dir={tmp_path / 'run'} is in use by process {os.getpid()}")
    held.release()
    assert not list((tmp_path / "run").glob("iter_*"))
