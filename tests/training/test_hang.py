"""A rank that hangs ends the run soon: one line names it, its host and its stack."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from megatron_in2.errors import EXIT_UNFIT_NODES
from megatron_in2.training.checks.hang_watch import HANGS, SICK_NODES
from tests.conftest import ROOT
from tests.training.conftest import WriteConfig, read_metrics

DRIVER = Path(__file__).with_name("callbacks") / "odd_rank.py"
OPTIONS = ["--nproc=2", "--schedule.steps=4000", "--data.validation=", "--runtime.hang_timeout=8"]


def _start(
    script: Path, folder: Path, write_config: WriteConfig, *options: str, **variables: str
) -> subprocess.Popen[str]:
    nodes = {"SLURMD_NODENAME": "node07", SICK_NODES: str(folder.with_name("sick"))}
    return subprocess.Popen(
        [sys.executable, str(script), "--config", str(write_config(folder)), *OPTIONS, *options],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **nodes, **variables},
    )


def _only_line(run: subprocess.Popen[str], folder: Path) -> str:
    _, errors = run.communicate(timeout=280)
    assert run.returncode == EXIT_UNFIT_NODES, errors
    (line,) = errors.splitlines()
    assert "no progress for " in line
    (hang,) = (folder / HANGS).iterdir()
    assert str(hang) in line
    assert folder.with_name("sick").read_text() == "node07\n"
    return line


def test_a_stopped_first_rank_is_named_by_the_others(
    tmp_path: Path, write_config: WriteConfig
) -> None:
    folder = tmp_path / "run"
    run = _start(ROOT / "tools" / "train.py", folder, write_config)
    while True:
        assert run.poll() is None
        with contextlib.suppress(OSError):
            if read_metrics(folder):
                break
        time.sleep(0.05)
    ranks = sorted(psutil.Process(run.pid).children(), key=lambda process: process.pid)
    os.kill(ranks[0].pid, signal.SIGSTOP)
    line = _only_line(run, folder)
    assert "rank 0 on node07 did not arrive (no answer: it is stopped (SIGSTOP" in line
    assert "rank 1" not in line
    assert not [rank for rank in ranks if rank.is_running()]


@pytest.mark.slow
def test_a_writer_that_hangs_ends_the_run(tmp_path: Path, write_config: WriteConfig) -> None:
    folder = tmp_path / "run"
    options = ["--checkpoint.interval_steps=1"]
    run = _start(ROOT / "tools" / "train.py", folder, write_config, *options)
    launcher, stopped = psutil.Process(run.pid), []
    while not stopped:
        assert run.poll() is None
        with contextlib.suppress(psutil.Error):
            for rank in launcher.children() if folder.exists() else []:
                stopped += rank.children()
        for writer in stopped:
            writer.suspend()
        time.sleep(0.002)
    _, errors = run.communicate(timeout=280)
    assert run.returncode == EXIT_UNFIT_NODES, errors
    assert "no progress for " in errors
    assert "store.py" in errors
    psutil.wait_procs(stopped, timeout=10)
    assert not [writer for writer in stopped if writer.is_running()]


@pytest.mark.slow
def test_a_rank_that_reads_for_ever_is_named_with_its_stack(
    tmp_path: Path, write_config: WriteConfig
) -> None:
    folder = tmp_path / "run"
    run = _start(DRIVER, folder, write_config, ODD_RANK="slow", SLEEP="1000")
    line = _only_line(run, folder)
    assert "rank 1 on node07 did not arrive (at odd_rank.py:" in line
    assert "read_slowly <" in line
    assert "rank 0" not in line
    reports = [json.loads(path.read_text()) for path in sorted(folder.glob(f"{HANGS}/*/*.json"))]
    assert [report["place"]["node"] for report in reports] == ["node07", "node07"]
    assert sum(group["begun"] for group in reports[1]["groups"].values()) > 0
    assert len(list(folder.glob(f"{HANGS}/*/trace_rank_*"))) == 2
