"""Runs a command as its own process: how the quickstart and the studies start their steps."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from types import FrameType

from megatron_in2.errors import EXIT_INTERRUPTED, EXIT_REQUEUE
from megatron_in2.processes import bind_to_parent, heeded_signals


def command_line(name: str, *arguments: object) -> list[str]:
    """Return what starts a command of this package: its file's name here, and its arguments."""
    return [sys.executable, "-m", f"{__package__}.{name}", *map(str, arguments)]


def print_command(command: list[str]) -> None:
    """Print what is started, as it can be typed."""
    print("    $ python", *command[1:], flush=True)


def run_command_line(name: str, *arguments: object) -> None:
    """Run a command and wait for it; end this process with its exit code where it fails."""
    command = command_line(name, *arguments)
    print_command(command)
    with child_process(command) as child:
        child.wait()
    if code := child.returncode:
        sys.exit(128 - code if code < 0 else code)


@contextlib.contextmanager
def child_process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command that does not outlive this process, however this process ends.

    SIGTERM, SIGUSR1, SIGHUP and Ctrl-C reach the child as SIGTERM, so that a training saves; a
    second signal kills it. The child has ended when the block is left.

    Yields:
        The running child. Its training dies with it: ranks die with their launcher.

    Raises:
        SystemExit: a signal came: 130 after Ctrl-C, else 75.
    """
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in children:
            _stop(child, received)

    previous = {number: signal.signal(number, stop) for number in heeded_signals()}
    try:
        # The function runs in the child before the command starts; this process has one thread
        # that starts children.
        children.append(subprocess.Popen(command, preexec_fn=partial(bind_to_parent, os.getpid())))
        if received:  # while the child was being started
            _stop(children[0], received)
        yield children[0]
    finally:
        for child in children:
            child.kill()  # does nothing to a child that has been waited for
            child.wait()
        for number, handler in previous.items():
            signal.signal(number, handler)
    if received:
        name = signal.Signals(received[0]).name
        print(f"stopped by {name}: start again to go on", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED if received[0] == signal.SIGINT else EXIT_REQUEUE)


def _stop(child: subprocess.Popen[bytes], received: list[int]) -> None:
    child.send_signal(signal.SIGTERM if len(received) == 1 else signal.SIGKILL)
