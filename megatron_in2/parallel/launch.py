"""Starts the ranks of a one-machine run, and ends all of them as soon as one fails."""

import os
import signal
import socket
import subprocess
import sys
import time
from types import FrameType

from megatron_in2.errors import EXIT_BAD_INPUT, EXIT_REQUEUE

POLL_SECONDS = 0.1
FAILURE_GRACE_SECONDS = 5.0
REQUEUE_GRACE_SECONDS = 120.0


def run_local_ranks(command: list[str], nproc: int) -> int:
    """Run ``command`` as ``nproc`` ranks on this machine and wait for them.

    Each rank gets torchrun's variables. SIGTERM, SIGINT and SIGUSR1 are passed on to every
    rank. When a rank fails, the others are stopped and its exit code is returned, so that a
    code such as 75 (requeue) or 2 (bad input) reaches the caller unchanged.

    Returns:
        0 if every rank ended well; 2 if one found bad input; else the first failure's exit code
        (128 + signal if killed).
    """
    port = _free_port()
    ranks = [_start_rank(command, index, nproc, port) for index in range(nproc)]

    def forward(number: int, frame: FrameType | None) -> None:
        for rank in ranks:
            if rank.poll() is None:
                rank.send_signal(number)

    forwarded = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = {number: signal.signal(number, forward) for number in forwarded}
    try:
        return _wait(ranks)
    finally:
        for rank in ranks:
            if rank.poll() is None:
                rank.kill()
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
    return subprocess.Popen(command, env=environment)


def _wait(ranks: list[subprocess.Popen[bytes]]) -> int:
    failure, deadline = 0, float("inf")
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < deadline:
        failed = [(index, rank.returncode) for index, rank in enumerate(ranks) if rank.poll()]
        if failed and not failure:
            index, code = failed[0]
            failure = _exit_code(code)
            # A rank blocked in a collective with the dead one never returns: it is killed after
            # the grace, which lets a sound one finish its save or show its own error.
            grace = REQUEUE_GRACE_SECONDS if failure == EXIT_REQUEUE else FAILURE_GRACE_SECONDS
            deadline = time.monotonic() + grace
            if code < 0:
                name = signal.Signals(-code).name
                print(f"rank {index} was killed by {name}; stopping the others", file=sys.stderr)
        time.sleep(POLL_SECONDS)
    codes = [_exit_code(rank.returncode) for rank in ranks if rank.poll()]
    # A rank that loses its peer may end before the peer that says why; the reason's code counts.
    return EXIT_BAD_INPUT if EXIT_BAD_INPUT in codes else failure or next(iter(codes), 0)


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
