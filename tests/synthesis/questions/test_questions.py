"""Questions are handed on in order, none is asked that is not wanted, and none waits in vain."""

import asyncio
import io
import json
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import FilterConfig
from megatron_in2.synthesis.questions.asking import Accepted, Asker, Lane, LaneEnd
from megatron_in2.synthesis.questions.stream import QuestionStage
from megatron_in2.synthesis.questions.writer import Draft, Evidence, Unusable
from megatron_in2.synthesis.rejects import Rejects
from tests.synthesis.virtual_time import run


class _Writer:
    """Answers out of order; some answers are bad, and one breaks the run."""

    is_paid = True
    gives_quotes = True

    def __init__(
        self, window: int, breaks_at: int | None = None, bad: int = 5, slow: int | None = None
    ) -> None:
        self.window = window
        self.asked: list[str] = []
        self.finished = 0
        self.closed = self.stopped = False
        self._breaks_at = breaks_at
        self._bad = bad
        self._slow = slow
        self._chance = random.Random(7)

    async def write(self, evidence: Evidence) -> Draft:
        self.asked.append(evidence.id)
        number = evidence.segments[0]
        if number % 3:  # the others are answered at once, as by the journal
            await asyncio.sleep(100.0 if number == self._slow else self._chance.random() / 500)
        self.finished += 1
        if number == self._breaks_at:
            raise InputError("the money is used up")
        if number % self._bad == 0:
            return Draft(problem="nothing to ask", reply="hm")
        # Every fourth question repeats the one before it.
        follows = f"{evidence.kind} {number - number % 4 // 3}"
        return Draft(f"Which number follows {follows}?", f"{number + 1}.")

    def cost(self) -> float | None:
        return None

    def stop(self) -> None:
        self.stopped = True

    async def close(self) -> None:
        self.closed = True


def _evidence(count: int, kind: str = "fine_grained") -> Iterator[Evidence | Unusable]:
    for number in range(count):
        if number % 11 == 10:
            yield Unusable(f"{kind}/{number}", kind, "too long")
        else:
            yield Evidence(f"{kind}/{number}", kind, (number,), ("text",))


def _admit(evidence: Evidence, draft: Draft) -> tuple[int, str | None]:
    return evidence.segments[0], "does not fit" if evidence.segments[0] % 13 == 12 else None


def _ask(
    writer: _Writer, *wanted: int, candidates: int = 10_000, config: FilterConfig | None = None
) -> tuple[list[Accepted | LaneEnd], Rejects]:
    rejects = Rejects(io.StringIO())
    lanes = [
        Lane(kind, _evidence(candidates, kind), count)
        for kind, count in zip(("fine_grained", "short", "integration"), wanted, strict=False)
    ]
    with QuestionStage(writer, config or FilterConfig(citations=False)) as stage:
        taken = list(stage.questions(lanes, _admit, rejects))
    assert writer.closed
    return taken, rejects


def test_the_order_is_that_of_the_evidence_whatever_the_window() -> None:
    results = [_ask(_Writer(window), 40, 20, 5) for window in (1, 3, 50)]
    (first, rejects), *others = results
    for taken, dropped in others:
        assert taken == first
        assert dropped._stream.getvalue() == rejects._stream.getvalue()
    kinds = [each.evidence.kind if isinstance(each, Accepted) else each for each in first]
    assert kinds[:40] == ["fine_grained"] * 40
    assert isinstance(kinds[40], LaneEnd)
    assert kinds[41:61] == ["short"] * 20
    assert kinds[62:67] == ["integration"] * 5
    for lane in (first[:40], first[41:61], first[62:67]):
        frames = [each.frame_tokens for each in lane if isinstance(each, Accepted)]
        assert frames == sorted(frames)
    assert set(rejects.counts) >= {
        "fine_grained: nothing to ask",
        "fine_grained: question asked before",
        "fine_grained: too long",
        "fine_grained: does not fit",
    }


def test_rejects_show_what_was_written_instead() -> None:
    _, rejects = _ask(_Writer(4), 10)
    lines = [json.loads(line) for line in rejects._stream.getvalue().splitlines()]
    assert {line["reply"] for line in lines if "nothing to ask" in line["reason"]} == {"hm"}


def test_no_more_is_asked_than_wanted_and_dropped() -> None:
    writer = _Writer(window=64)
    taken, rejects = _ask(writer, 30, 10)
    unusable = sum(count for reason, count in rejects.counts.items() if "too long" in reason)
    accepted = [each for each in taken if isinstance(each, Accepted)]
    assert len(accepted) == 40
    assert len(writer.asked) == 40 + rejects.counts.total() - unusable
    assert sum(each.asked for each in taken if isinstance(each, LaneEnd)) == len(writer.asked)


def test_evidence_may_run_out() -> None:
    taken, rejects = _ask(_Writer(window=8), 1000, candidates=50)
    assert len(taken) - 1 + rejects.counts.total() == 50


def test_what_is_under_way_is_finished_when_the_run_breaks() -> None:
    writer = _Writer(window=20, breaks_at=22)
    with pytest.raises(InputError, match="money"):
        _ask(writer, 1000)
    assert writer.stopped
    assert writer.closed
    assert len(writer.asked) == writer.finished > 21


def test_a_slow_answer_holds_up_no_question() -> None:
    """Virtual time: the slow one takes 100 s, all 3,000 others are answered meanwhile."""
    writer = _Writer(window=16, slow=4)
    asked_meanwhile: list[int] = []

    async def ask() -> None:
        asker = Asker(
            writer,
            FilterConfig(duplicate_questions=False),
            lambda evidence, draft: (1, None),
            Rejects(io.StringIO()),
            lambda chunk: None,
            lambda: True,
        )
        loop = asyncio.get_running_loop()
        loop.call_later(50, lambda: asked_meanwhile.append(len(writer.asked)))
        await asker.ask([Lane("fine_grained", _evidence(5000), 3000)])

    _, seconds = run(ask())
    assert 100 <= seconds < 101
    assert asked_meanwhile == [len(writer.asked)]
    assert len(writer.asked) > 3000


def test_questions_nobody_takes_are_not_asked_for() -> None:
    """Memory stays bounded where composing is slower than asking."""
    writer = _Writer(window=16)
    with QuestionStage(writer, FilterConfig(duplicate_questions=False)) as stage:
        lanes = [Lane("fine_grained", _evidence(10**6), 10**6)]
        questions = stage.questions(lanes, _admit, Rejects(io.StringIO()))
        next(questions)
        quiet = threading.Event()
        asked = -1
        while asked != len(writer.asked):  # until no more are asked
            asked = len(writer.asked)
            quiet.wait(0.5)
        assert asked < 50_000


def test_a_run_whose_replies_are_nearly_all_dropped_ends() -> None:
    with pytest.raises(InputError, match=r"(?s)of the last 200 replies were dropped .*prompt"):
        _ask(_Writer(window=8, bad=1), 1000)
    writer = _Writer(window=8, bad=1)
    _ask(writer, 10, candidates=300, config=FilterConfig(stop_share=1.0))
    assert len(writer.asked) == 273
    free = _Writer(window=8, bad=1)
    free.is_paid = False
    _ask(free, 10, candidates=300)  # what costs nothing may go on


def test_a_pilot_asks_so_many_and_no_more() -> None:
    writer = _Writer(window=8)
    lane = Lane("fine_grained", _evidence(1000), 50, most_asked=50)
    with QuestionStage(writer, FilterConfig()) as stage:
        taken: list[Any] = list(stage.questions([lane], _admit, Rejects(io.StringIO())))
    assert len(writer.asked) == taken[-1].asked == 50
    assert len(taken) < 50
