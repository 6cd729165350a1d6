"""Local ranks: all end as soon as one fails, and its exit code arrives unchanged."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import TCPStore

from megatron_in2.parallel import launch
from tests.conftest import ROOT
from tests.test_processes import END_SECONDS, wait_until_caught

WAIT = "import os, sys, time; rank = int(os.environ['RANK']);"


def _run(code: str, nproc: int = 2) -> int:
    return launch.run_local_ranks([sys.executable, "-c", WAIT + code], nproc)


def test_all_well() -> None:
    check = "assert os.environ['WORLD_SIZE'] == '3'; assert rank in (0, 1, 2)"
    assert _run(check, nproc=3) == 0


@pytest.mark.parametrize("code", [1, 2, 75])
def test_the_first_failure_is_returned_and_ends_the_others(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "FAILURE_GRACE_SECONDS", 0.2)
    monkeypatch.setattr(launch, "REQUEUE_GRACE_SECONDS", 0.2)
    started = time.monotonic()
    assert _run(f"sys.exit({code}) if rank == 1 else time.sleep(60)") == code
    assert time.monotonic() - started < 30


def test_the_rank_that_says_why_counts_even_if_another_ends_first() -> None:
    assert _run("time.sleep(rank); sys.exit(1 + rank)") == 2


def test_a_killed_rank_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch, "FAILURE_GRACE_SECONDS", 0.2)
    assert _run("os.kill(os.getpid(), 9) if rank == 1 else time.sleep(60)") == 137
    assert "rank 1 was killed by SIGKILL" in capsys.readouterr().err


def test_ranks_that_all_died_at_once_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("os.kill(os.getpid(), 7)") == 135
    errors = capsys.readouterr().err
    assert "killed by SIGBUS (a file that it had mapped was cut short" in errors
    named = [word for line in errors.splitlines() for word in line.partition(" w")[0].split()]
    assert sorted(word.strip(",") for word in named if word[0].isdigit()) == ["0", "1"]


RANK = """
import pathlib, signal, sys, time
counted = []
signal.signal(signal.SIGTERM, lambda *_: counted.append(1))
pathlib.Path(sys.argv[1], os.environ["RANK"]).touch()
while not counted:
    time.sleep(0.01)
os.write(1, b"told\\n")  # one write: both ranks share the pipe
if len(sys.argv) > 2:
    time.sleep(600)
sys.exit(75)
"""
LAUNCHER = """
import sys
from megatron_in2.parallel.launch import run_local_ranks
sys.exit(run_local_ranks([sys.executable, "-c", *sys.argv[1:]], 2))
"""


def _launch(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start a launcher, and wait until its ranks run."""
    code = f"import os\n{RANK}"
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, code, str(folder), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return launcher


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGHUP", 75), ("SIGUSR1", 75)])
def test_stop_signals_reach_the_ranks(number: str, code: int, tmp_path: Path) -> None:
    launcher = _launch(tmp_path)
    launcher.send_signal(signal.Signals[number])
    assert launcher.communicate(timeout=60) == ("told\ntold\n", "")
    assert launcher.returncode == code


def test_ctrl_c_asks_the_ranks_once_and_kills_them_the_second_time(tmp_path: Path) -> None:
    launcher = _launch(tmp_path, "stay")
    assert launcher.stdout is not None
    os.killpg(launcher.pid, signal.SIGINT)  # what a terminal does: to the ranks as well
    assert [launcher.stdout.readline() for _ in range(2)] == ["told\n"] * 2
    os.killpg(launcher.pid, signal.SIGINT)
    assert launcher.communicate(timeout=END_SECONDS) == ("", "")
    assert launcher.returncode == 130


def test_ranks_die_with_a_killed_launcher_and_its_output_is_closed(tmp_path: Path) -> None:
    launcher = _launch(tmp_path)
    launcher.kill()
    assert launcher.communicate(timeout=END_SECONDS) == ("", "")


def test_a_rank_that_is_stopped_before_it_listens_counts_as_stopped(
    capsys: pytest.CaptureFixture[str],
) -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, "import time; time.sleep(600)"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until_caught(launcher.pid)
    launcher.terminate()
    assert launcher.communicate(timeout=60)[1] == ""
    assert launcher.returncode == 75


def test_the_port_of_the_ranks_is_held_until_rank_0_listens_on_it() -> None:
    with launch.reserved_port() as port:
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))
        store = TCPStore("127.0.0.1", port, world_size=1, is_master=True)
        store.set("key", "value")
        assert store.get("key") == b"value"
