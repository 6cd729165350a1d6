"""Starts the ranks of a run on one machine, and ends all of them when one fails."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from types import FrameType

from megatron_in2.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_REQUEUE
from megatron_in2.processes import die_with_parent, heeded_signals

POLL_SECONDS = 0.1
FAILURE_GRACE_SECONDS = 5.0
REQUEUE_GRACE_SECONDS = 120.0
_FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)
_CAUSES = {
    signal.SIGBUS: "a file that it had mapped was cut short or could not be read: check the disk "
    "of data.train",
    signal.SIGKILL: "by hand, by a scheduler, or by the system, which is out of memory",
}


def run_local_ranks(command: list[str], nproc: int) -> int:
    """Run ``command`` as ``nproc`` ranks on this machine and wait for them.

    Each rank gets torchrun's variables, and dies when this process does. SIGTERM, SIGUSR1, SIGHUP
    and Ctrl-C reach every rank as SIGTERM; a second Ctrl-C kills them. When a rank fails, the
    others are stopped and its exit code is returned, so that a code such as 75 (requeue) or 2 (bad
    input) reaches the caller unchanged.

    Returns:
        0 if every rank succeeded; 2 if one found bad input; else the first failure's exit code
        (128 + signal if killed), or 130 after Ctrl-C.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    previous = {number: signal.signal(number, note) for number in heeded_signals()}
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        with reserved_port() as port:
            ranks += [_start_rank(command, index, nproc, port) for index in range(nproc)]
            return _wait(ranks, received)
    finally:
        _end(ranks)
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start_rank(command: list[str], index: int, nproc: int, port: int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    # Runs in the child before the command starts; this process has a single thread.
    bind = partial(_bind_to_launcher, os.getpid())
    return subprocess.Popen(command, env=environment, preexec_fn=bind)


def _bind_to_launcher(launcher: int) -> None:
    """Make a rank end with its launcher and ignore what a terminal sends to both."""
    for number in _FROM_TERMINAL:
        signal.signal(number, signal.SIG_IGN)
    die_with_parent(launcher)


def _wait(ranks: Sequence[subprocess.Popen[bytes]], received: Sequence[int]) -> int:
    first, deadline, forwarded = 0, float("inf"), 0
    named: set[int] = set()
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        for number in received[forwarded:]:
            if number == signal.SIGINT and number in received[:forwarded]:
                return EXIT_INTERRUPTED
            forwarded += 1
            _send_stop(ranks)
        failed = [rank.returncode for rank in ranks if rank.poll()]
        if failed and not first:
            first = failed[0]
            # A rank that waits in a collective for the dead one never returns, so it is killed
            # after this time; a healthy rank uses it to finish its save or print its error.
            is_requeue = _exit_code(first, received) == EXIT_REQUEUE
            grace = REQUEUE_GRACE_SECONDS if is_requeue else FAILURE_GRACE_SECONDS
            deadline = time.monotonic() + grace
        _name_killed(ranks, received, named)
        time.sleep(POLL_SECONDS)
    _name_killed(ranks, received, named)
    codes = [_exit_code(code, received) for rank in ranks if (code := rank.poll())]
    # A rank that loses its peer may end before the peer has printed the reason: bad input wins.
    if EXIT_BAD_INPUT in codes:
        return EXIT_BAD_INPUT
    code = _exit_code(first, received) if first else next(iter(codes), 0)
    return EXIT_INTERRUPTED if code == EXIT_REQUEUE and signal.SIGINT in received else code


def _send_stop(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    for rank in ranks:
        if rank.poll() is None:
            rank.send_signal(signal.SIGTERM)


def _name_killed(
    ranks: Sequence[subprocess.Popen[bytes]], received: Sequence[int], named: set[int]
) -> None:
    """Print which ranks were killed by a signal, which they cannot print; add them to ``named``."""
    killed: dict[int, list[int]] = {}
    for index, rank in enumerate(ranks):
        code = rank.poll() or 0
        if index not in named and code < 0 and _exit_code(code, received) != EXIT_REQUEUE:
            killed.setdefault(-code, []).append(index)
    others = "; stopping the others" if any(rank.poll() is None for rank in ranks) else ""
    for number, found in killed.items():
        named.update(found)
        cause = _CAUSES.get(signal.Signals(number))
        print(
            f"{'rank' if len(found) == 1 else 'ranks'} {', '.join(map(str, found))} "
            f"{'was' if len(found) == 1 else 'were'} killed by {signal.Signals(number).name}"
            f"{f' ({cause})' if cause else ''}{others}",
            file=sys.stderr,
        )


def _end(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Kill the remaining ranks and wait for them."""
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
    for rank in ranks:
        rank.wait()


def _exit_code(code: int, received: Sequence[int]) -> int:
    """Return a rank's exit code as shells count; 75 if SIGTERM ended it before its handler ran."""
    if code == -signal.SIGTERM and received:
        return EXIT_REQUEUE
    return 128 - code if code < 0 else code


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Yield a free port that the system gives to nobody else who asks for any free port.

    Rank 0 listens on it seconds later. Until then this process holds it, bound but not listening:
    Linux then lets a program that asks for this very port have it if both set SO_REUSEADDR, as
    torch's store does.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", 0))
        yield int(held.getsockname()[1])
