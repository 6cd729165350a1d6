"""Commands that the quickstart starts end with it, and get the signals that reach it."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import ROOT
from tests.test_processes import END_SECONDS

# What a training does: on SIGTERM it saves and ends with 75; ranks of its own die with it.
CHILD = """
import signal, sys, time
def save(*signal_and_frame):
    print("saved", flush=True)
    sys.exit(75)
if sys.argv[1] != "deaf":
    signal.signal(signal.SIGTERM, save)
else:
    signal.signal(signal.SIGTERM, lambda *_: print("told", flush=True))
print("ready", flush=True)
while True:
    time.sleep(600)
"""
RUN = """
import sys
from megatron_in2.commands import start
start.command_line = lambda *arguments: [sys.executable, "-c", *arguments]
start.print_command = lambda command: None
start.run_command_line(*sys.argv[1:])
print("goes on", flush=True)
"""
# The quickstart's own step, which trains and then kills the training, with the same child.
TRAIN = """
import sys
from pathlib import Path
from megatron_in2.quickstart import run
from megatron_in2.quickstart.config import QuickstartConfig
from megatron_in2.quickstart.places import Places
run.command_line = lambda *_: [sys.executable, "-c", *sys.argv[1:]]
run.print_command = lambda command: None
config = QuickstartConfig()
run._Steps(config, Places.below(Path(sys.argv[3])))._train_and_kill()
print("goes on", flush=True)
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    runs = []

    def run(code: str, kind: str = "heeds") -> subprocess.Popen[str]:
        runs.append(
            subprocess.Popen(
                [sys.executable, "-c", code, CHILD, kind, str(tmp_path)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
        )
        assert runs[-1].stdout.readline() == "ready\n"
        return runs[-1]

    yield run
    for each in runs:
        each.kill()


@pytest.mark.parametrize("code", [RUN, TRAIN], ids=["command", "training that is killed"])
@pytest.mark.parametrize(("name", "expected"), [("SIGTERM", 75), ("SIGHUP", 75), ("SIGINT", 130)])
def test_a_stop_signal_reaches_the_child_which_saves(
    code: str, name: str, expected: int, start: Start
) -> None:
    run = start(code)
    run.send_signal(signal.Signals[name])
    output, errors = run.communicate(timeout=60)
    assert (output, errors) == ("saved\n", f"stopped by {name}: start again to go on\n")
    assert run.returncode == expected


def test_ctrl_c_of_a_terminal_stops_the_child_once_and_kills_it_the_second_time(
    start: Start,
) -> None:
    run = start(RUN, "deaf")
    assert run.stdout is not None
    os.killpg(run.pid, signal.SIGINT)  # a terminal sends it to the child too
    assert run.stdout.readline() == "told\n"
    os.killpg(run.pid, signal.SIGINT)
    output, errors = run.communicate(timeout=END_SECONDS)
    assert (output, errors) == ("", "stopped by SIGINT: start again to go on\n")
    assert run.returncode == 130


@pytest.mark.parametrize("code", [RUN, TRAIN], ids=["command", "training that is killed"])
def test_the_child_of_a_killed_process_dies_and_closes_its_output(code: str, start: Start) -> None:
    run = start(code)
    (child,) = psutil.Process(run.pid).children()
    run.kill()
    assert run.communicate(timeout=END_SECONDS)[0] == ""  # the child held it open
    psutil.wait_procs([child], timeout=END_SECONDS)
    assert not child.is_running()
