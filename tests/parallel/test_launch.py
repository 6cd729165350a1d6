"""Local ranks: all end as soon as one fails, and its exit code arrives unchanged."""

import sys
import time

import pytest

from megatron_in2.parallel import launch

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
