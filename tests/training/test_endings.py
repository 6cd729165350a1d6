"""However a run ends, all of it ends: nothing is lost that could be saved, no process is left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.errors import EXIT_REQUEUE
from tests.conftest import ROOT
from tests.test_processes import END_SECONDS
from tests.training.conftest import WriteConfig, read_metrics

OPTIONS = ["--nproc=2", "--checkpoint.interval_steps=1", "--schedule.steps=4000"]


@pytest.fixture
def start(tmp_path: Path, write_config: WriteConfig) -> Callable[[], subprocess.Popen[str]]:
    """Start a run of two ranks that saves after every step."""

    def run() -> subprocess.Popen[str]:
        config = ["--config", str(write_config(tmp_path / "run")), "--data.validation="]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "train.py"), *config, *OPTIONS],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return run


def _freeze_a_writer(run: subprocess.Popen[str], folder: Path) -> psutil.Process:
    """Once a checkpoint exists, stop a process that writes the next one."""
    deadline = time.monotonic() + 280
    launcher = psutil.Process(run.pid)
    while time.monotonic() < deadline:
        if complete_steps(folder):
            for rank in launcher.children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    for writer in rank.children():
                        if _is_frozen(writer):
                            return writer
        time.sleep(0.001)
    raise AssertionError("no checkpoint was written")


def _is_frozen(process: psutil.Process) -> bool:
    """Stop a process; return False if it ended before it stopped, which takes a moment."""
    process.suspend()
    while (status := process.status()) != psutil.STATUS_STOPPED:
        if status == psutil.STATUS_ZOMBIE:
            return False
        time.sleep(0.001)
    return True


def test_sigterm_during_a_save_reaches_all_and_everything_is_saved(
    tmp_path: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    """Slurm sends SIGTERM to every process of a job, the writers of a checkpoint included."""
    run = start()
    writer = _freeze_a_writer(run, tmp_path / "run")
    for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        process.terminate()
    writer.resume()
    output, errors = run.communicate(timeout=280)
    assert run.returncode == EXIT_REQUEUE, output + errors
    assert "stopping on SIGTERM" in output
    assert errors == ""
    done = max(read_metrics(tmp_path / "run"))
    assert complete_steps(tmp_path / "run")[-1].name == f"iter_{done:07d}"


@pytest.mark.parametrize(
    ("victim", "code"), [("launcher", -9), pytest.param("rank 0", 137, marks=pytest.mark.slow)]
)
def test_nothing_outlives_a_kill_during_a_save(
    victim: str, code: int, tmp_path: Path, start: Callable[[], subprocess.Popen[str]]
) -> None:
    run = start()
    writer = _freeze_a_writer(run, tmp_path / "run")
    ranks = sorted(psutil.Process(run.pid).children(), key=lambda process: process.pid)
    os.kill(run.pid if victim == "launcher" else ranks[0].pid, signal.SIGKILL)
    assert run.wait(timeout=280) == code
    _, errors = run.communicate(timeout=END_SECONDS)
    assert ("rank 0 was killed by SIGKILL" in errors) == (victim == "rank 0")
    _, alive = psutil.wait_procs([writer, *ranks], timeout=END_SECONDS)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]
