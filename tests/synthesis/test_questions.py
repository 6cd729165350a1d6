"""Questions are handed on in order, and none is asked that is not wanted."""

import asyncio
import io
import random

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import FilterConfig
from megatron_in2.synthesis.questions import QuestionStage, Quota
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.writer import Draft, Evidence


class _SlowWriter:
    """Answers out of order; some answers are bad, and one breaks the run."""

    def __init__(self, window: int, breaks_at: int | None = None) -> None:
        self.window = window
        self.asked = 0
        self.finished = 0
        self.closed = False
        self._breaks_at = breaks_at
        self._chance = random.Random(7)

    async def write(self, evidence: Evidence) -> Draft:
        self.asked += 1
        number = evidence.segments[0]
        await asyncio.sleep(self._chance.random() / 500)
        self.finished += 1
        if number == self._breaks_at:
            raise InputError("the money is used up")
        if number % 5 == 0:
            return Draft(problem="nothing to ask")
        return Draft(f"Which number follows {number - number % 7}?", f"{number + 1}.")

    def cost(self) -> float | None:
        return None

    def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        self.closed = True


def _evidence(count: int):
    return (Evidence(str(i), "fine_grained", (i,), ("text",)) for i in range(count))


def _ask(writer: _SlowWriter, wanted: int, candidates: int = 10_000) -> tuple[list[str], Rejects]:
    rejects = Rejects(io.StringIO())
    quota = Quota(wanted)
    taken = []
    with QuestionStage(writer, FilterConfig()) as stage:
        for evidence, _ in stage.accepted(_evidence(candidates), quota, rejects):
            quota.made += 1
            taken.append(evidence.id)
    assert writer.closed
    return taken, rejects


def test_the_order_is_that_of_the_evidence_whatever_the_window() -> None:
    results = [_ask(_SlowWriter(window), wanted=40) for window in (1, 3, 50)]
    assert results[0][0] == results[1][0] == results[2][0]
    assert results[0][1].counts == results[1][1].counts == results[2][1].counts
    assert len(results[0][0]) == 40
    assert set(results[0][1].counts) == {
        "fine_grained: nothing to ask",
        "fine_grained: question asked before",
    }


def test_no_more_is_asked_than_wanted_and_dropped() -> None:
    writer = _SlowWriter(window=64)
    taken, rejects = _ask(writer, wanted=30)
    assert writer.asked == len(taken) + rejects.counts.total()


def test_evidence_may_run_out() -> None:
    taken, rejects = _ask(_SlowWriter(window=8), wanted=1000, candidates=50)
    assert len(taken) + rejects.counts.total() == 50


def test_what_is_under_way_is_finished_when_the_run_breaks() -> None:
    writer = _SlowWriter(window=20, breaks_at=21)
    with pytest.raises(InputError, match="money"):
        _ask(writer, wanted=1000)
    assert writer.stopped
    assert writer.closed
    assert writer.asked == writer.finished > 21
