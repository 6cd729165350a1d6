"""Which ranks of a hang did not arrive, and how they are named."""

import os

from megatron_in2.checkpoint.lease import this_process
from megatron_in2.parallel.flight_recorder import GroupProgress
from megatron_in2.training.checks.hang_report import (
    HangReport,
    RankPlace,
    absent_ranks,
    describe_hang,
)

WAITS = ("torch/distributed/distributed_c10d.py:2833 wait", "megatron_in2/x.py:1 step")
READS = ("megatron_in2/data/packed/dataset.py:70 __getitem__", "megatron_in2/x.py:1 step")
MACHINE = this_process().machine


def _report(stack: tuple[str, ...] = WAITS, **begun: int) -> HangReport:
    """Ranks 0 and 1 are one tensor-parallel group, 2 and 3 another; 0 and 2, 1 and 3 data."""
    members = {"tp0": (0, 1), "tp1": (2, 3), "dp0": (0, 2), "dp1": (1, 3)}
    groups = {
        name: GroupProgress(members[name], count, "all_reduce") for name, count in begun.items()
    }
    return HangReport(step=41, stack=stack, groups=groups)


def _places(machine: str = "another") -> list[RankPlace]:
    return [RankPlace("host", f"node{rank:02d}", os.getpid(), machine) for rank in range(4)]


def test_ranks_without_a_report_are_absent() -> None:
    assert absent_ranks({0: _report(tp0=4), 2: _report(tp1=3)}, 4) == [1, 3]


def test_a_rank_that_is_behind_and_does_not_wait_is_absent() -> None:
    """Rank 3 reads; rank 2 waits for it, rank 0 for rank 2: all of them are behind somewhere."""
    reports = {
        0: _report(tp0=8, dp0=5),
        1: _report(tp0=8, dp1=5),
        2: _report(tp1=8, dp0=4),
        3: _report(READS, tp1=7, dp1=4),
    }
    assert absent_ranks(reports, 4) == [3]
    assert absent_ranks({**reports, 3: _report(tp1=7, dp1=4)}, 4) == [2, 3]  # by groups alone


def test_without_a_rank_that_is_behind_those_that_do_not_wait_are_absent() -> None:
    alike = {rank: _report(tp0=3) for rank in range(4)}
    assert absent_ranks(alike, 4) == []
    assert absent_ranks({**alike, 2: _report(READS, tp0=3)}, 4) == [2]


def test_the_line_names_rank_node_and_stack() -> None:
    reports = {0: _report(tp0=2), 1: _report(READS, tp0=1)}
    line = describe_hang([1], reports, _places(), 301.2, MACHINE)
    assert line == (
        "no progress for 301 s after step 41: rank 1 on node01 did not arrive (at "
        "megatron_in2/data/packed/dataset.py:70 __getitem__ < megatron_in2/x.py:1 step); the "
        "others (1) wait at torch/distributed/distributed_c10d.py:2833 wait "
        "< megatron_in2/x.py:1 step"
    )


def test_of_a_silent_rank_the_state_of_its_process_is_said() -> None:
    reports = {0: _report(tp0=2)}
    assert "(no answer from it)" in describe_hang([1], reports, _places(), 9, MACHINE)
    assert "(no answer: it is busy)" in describe_hang([1], reports, _places(MACHINE), 9, MACHINE)
    gone = [RankPlace("host", "node", 2**22 + 1, MACHINE)] * 4
    assert "its process is gone" in describe_hang([1], reports, gone, 9, MACHINE)


def test_a_hang_of_the_network_blames_no_rank() -> None:
    reports = {rank: _report(tp0=3) for rank in range(4)}
    line = describe_hang([], reports, _places(), 9, MACHINE)
    assert "did not arrive" not in line
    assert "the network" in line


def test_many_ranks_are_counted() -> None:
    places = [RankPlace("host", "node", 1, "another")] * 20
    assert "and 12 more ranks" in describe_hang(range(20), {}, places, 9, MACHINE)
