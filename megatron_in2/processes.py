"""How the processes of a run end: with their parent, and when a signal asks them to stop."""

import contextlib
import ctypes
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

import psutil

from megatron_in2.errors import EXIT_INTERRUPTED, EXIT_REQUEUE

# What schedulers, terminals and users send to end a run in an orderly way.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)  # to all processes of its foreground
LAUNCHER = "IN2_LAUNCHER"  # in a rank's environment: the process id of what started it
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def die_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent ends, for whatever reason.

    Linux only; does nothing elsewhere.

    Args:
        parent: the parent's process id when this process was started. If the parent is another
            process now, the original one has ended, and this process is killed at once.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def bind_to_parent(parent: int) -> None:
    """Make a child end with its parent, and ignore what a terminal sends to both.

    Runs in the child, before its command starts. The parent passes the signals on.

    Args:
        parent: the parent's process id.
    """
    for number in FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(parent)


def kill_children() -> None:
    """Kill what this process has started, also what hangs before it can bind itself to a parent."""
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                child.kill()


def die_with_launcher() -> None:
    """Call :func:`die_with_parent` in a rank that torchrun or ``slurm/rank.sh`` has started.

    This package's own launcher does it for its ranks before their first instruction.
    """
    launcher = os.environ.pop(LAUNCHER, None)
    if launcher is not None and not _exists(int(launcher)):
        os.kill(os.getpid(), signal.SIGKILL)
    if launcher is not None or "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent(os.getppid())


def heeded_signals() -> list[signal.Signals]:
    """Return the stop signals that this process handles: those it does not ignore.

    ``nohup`` makes it ignore SIGHUP; a launcher makes its ranks ignore what the terminal sends.
    """
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


def exit_on_stop_signals() -> None:
    """Make stop signals end this process at once, from now on: there is nothing to save yet."""
    for number in heeded_signals():
        signal.signal(number, _exit_on_signal)


def ignore_stop_signals() -> None:
    """Ignore stop signals from now on: the work is done, or another process decides."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def exit_at_once(number: int, consequence: str) -> NoReturn:
    """End this process; rank 0 prints the signal and the consequence."""
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or "0"
    if rank == "0":
        name = signal.Signals(number).name
        line = f"{os.path.basename(sys.argv[0])}: stopped by {name}: {consequence}\n"
        with contextlib.suppress(OSError):  # the terminal is gone
            os.write(2, line.encode())
    os._exit(EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_REQUEUE)


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    exit_at_once(number, "nothing to save yet")


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
