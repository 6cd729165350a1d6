"""Processes end with their parents, and at once when they are told to before they work."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_in2 import processes
from tests.conftest import ROOT

END_SECONDS = 10  # after its run no process may live longer


def wait_until_caught(pid: int, number: signal.Signals = processes.STOP_SIGNALS[-1]) -> None:
    """Wait until a process has a handler for a signal, and for the stop signals before it."""
    deadline = time.monotonic() + 60
    while True:
        status = Path(f"/proc/{pid}/status").read_text()
        (caught,) = (line for line in status.splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) >> (number - 1) & 1:
            return
        assert time.monotonic() < deadline, status
        time.sleep(0.001)


@pytest.mark.parametrize(("number", "code"), [("SIGTERM", 75), ("SIGHUP", 75), ("SIGINT", 130)])
@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["tools/train.py"], "train.py"),
        (["-m", "megatron_in2.commands.train"], "train.py"),
        (["-m", "megatron_in2", "train"], "__main__.py"),
    ],
)
def test_a_signal_in_the_first_moments_ends_training_in_one_line(
    number: str, code: int, command: list[str], name: str
) -> None:
    # Without its options the command would refuse to run, seconds later.
    run = subprocess.Popen([sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    wait_until_caught(run.pid)
    run.send_signal(signal.Signals[number])
    _, errors = run.communicate(timeout=60)
    assert errors == f"{name}: stopped by {number}: nothing to save yet\n"
    assert run.returncode == code


CHILD = """
import os, sys, time
from megatron_in2.processes import die_with_parent
die_with_parent(os.getppid())
print(os.getpid(), flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""


def test_a_child_dies_with_its_killed_parent_and_closes_its_output() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert int(parent.stdout.readline()) != parent.pid
    parent.kill()
    assert parent.communicate(timeout=END_SECONDS)[0] == ""  # the child held it open


def test_a_child_whose_parent_is_gone_ends_itself() -> None:
    code = "from megatron_in2.processes import die_with_parent; die_with_parent(1); print('lives')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_a_rank_whose_launcher_is_gone_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from megatron_in2.processes import *; die_with_launcher(); print(LAUNCHER in os.environ)"
    )
    gone = subprocess.Popen(["true"])
    gone.wait()
    for launcher, expected in ((gone.pid, (-signal.SIGKILL, b"")), (os.getpid(), (0, b"False\n"))):
        monkeypatch.setenv(processes.LAUNCHER, str(launcher))
        command = [sys.executable, "-c", f"import os; {code}"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
        assert (done.returncode, done.stdout) == expected, done.stderr


def test_signals_that_were_ignored_before_stay_ignored() -> None:
    """``nohup`` makes its command ignore SIGHUP on purpose."""
    code = (
        "import os, signal; from megatron_in2.processes import exit_on_stop_signals;"
        "exit_on_stop_signals(); os.kill(os.getpid(), signal.SIGHUP); print('lives')"
    )
    command = ["nohup", sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"lives\n")
