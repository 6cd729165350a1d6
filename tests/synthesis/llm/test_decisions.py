"""A run that goes on checks no question twice; under other conditions it checks all again."""

import contextlib
import io
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.synthesis.config import FilterConfig, OpenAIConfig
from megatron_in2.synthesis.llm.journal.journal import Journal, Refusal
from megatron_in2.synthesis.llm.prompts import load_prompts
from megatron_in2.synthesis.llm.requests import RequestMaker
from megatron_in2.synthesis.llm.writer import build_language_model_writer, question_request
from megatron_in2.synthesis.questions import asking
from megatron_in2.synthesis.questions.asking import Accepted, Lane, LaneEnd
from megatron_in2.synthesis.questions.filters import first_problem
from megatron_in2.synthesis.questions.stream import QuestionStage
from megatron_in2.synthesis.questions.writer import Draft, Evidence, Unusable
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.tokenizers.base import Tokenizer

pytestmark = pytest.mark.usefixtures("api_key")
COUNT = 300
GIVEN_UP = 7
CONFIG = OpenAIConfig(model="m", base_url="http://127.0.0.1:9/v1", max_attempts=1)


def _evidence() -> Iterator[Evidence | Unusable]:
    for number in range(COUNT):
        if number % 50 == 49:
            yield Unusable(f"fine_grained/{number}", "fine_grained", "too long")
        text = f"The mill of number {number} was built from grey stone near the old river crossing."
        yield Evidence(f"fine_grained/{number}", "fine_grained", (number,), (text,))


def _reply(number: int) -> bytes:
    pair = {"question": f"Of what is mill {number} made?", "answer": f"Grey stone, {number}."}
    if number % 10 == 3:
        pair["answer"] = f"The mill of number {number} was built from grey stone."
    content = "no \ud83d pair" if number % 25 == 4 else json.dumps(pair)
    choice = {"message": {"content": content}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 9}
    return json.dumps({"choices": [choice], "usage": usage}).encode()


@pytest.fixture
def journal(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """A journal with answers to all questions but one, which was given up."""
    path, prompts = tmp_path / "x.sqlite", load_prompts("strict")
    maker = RequestMaker(CONFIG, prompts, tokenizer)
    with contextlib.closing(Journal(path, prompts.joined())) as kept, kept.transaction():
        for evidence in _evidence():
            if isinstance(evidence, Unusable):
                continue
            request = question_request(maker, evidence)
            attempt = kept.begin(request.key, request.payload, 0.0)
            if evidence.segments[0] == GIVEN_UP:
                kept.fail(attempt, "HTTP 500", perhaps_billed=False)
                kept.refuse(request.key, Refusal(500, "broken"))
            else:
                kept.finish(attempt, request.key, _reply(evidence.segments[0]), 0.0, 9)
    return path


def _run(
    journal: Path,
    tokenizer: Tokenizer,
    filters: FilterConfig | None = None,
    config: OpenAIConfig = CONFIG,
    conditions: str | None = None,
) -> tuple[list[tuple[str, str, str, int]], str]:
    """Return (id, question, answer, frame) of what is accepted, and the list of rejects."""
    writer = build_language_model_writer(config, False, tokenizer, journal, None)
    listed, filters = io.StringIO(), filters or FilterConfig(max_copied_words=5)
    accepted: list[Accepted | LaneEnd] = []
    lanes = [Lane("fine_grained", _evidence(), COUNT)]
    with QuestionStage(writer, filters) as stage:
        decisions = writer.decisions(repr(filters) if conditions is None else conditions)

        def admit(evidence: Evidence, draft: Draft) -> tuple[int, str | None]:
            return evidence.segments[0], None

        accepted += stage.questions(lanes, admit, Rejects(listed), decisions)
    found = [
        (each.evidence.id, each.draft.question, each.draft.answer, each.frame_tokens)
        for each in accepted
        if isinstance(each, Accepted)
    ]
    return found, listed.getvalue()


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of evidence whose questions were checked."""
    seen: list[str] = []

    def noted(draft: Draft, evidence: Evidence, config: FilterConfig) -> str | None:
        seen.append(evidence.id)
        return first_problem(draft, evidence, config)

    monkeypatch.setattr(asking, "first_problem", noted)
    return seen


def test_decisions_are_read_and_not_taken_again(
    journal: Path, tokenizer: Tokenizer, checked: list[str]
) -> None:
    first = _run(journal, tokenizer)
    assert len(checked) == COUNT
    checked.clear()
    assert _run(journal, tokenizer) == first
    # Only what was given up is tried again: it may be answered now.
    assert checked == [f"fine_grained/{GIVEN_UP}"]
    assert len(first[0]) == COUNT - COUNT // 10 - COUNT // 25 - 1
    reasons = ("answer copied from the evidence", "malformed reply", "HTTP 500", "too long")
    assert all(reason in first[1] for reason in reasons)


def test_other_conditions_check_all_again(
    journal: Path, tokenizer: Tokenizer, checked: list[str]
) -> None:
    first, _ = _run(journal, tokenizer)
    loose = FilterConfig(max_copied_words=0)
    assert len(_run(journal, tokenizer, loose)[0]) == len(first) + COUNT // 10
    assert len(checked) == 2 * COUNT
    assert len(_run(journal, tokenizer, loose)[0]) == len(first) + COUNT // 10
    assert len(checked) == 2 * COUNT + 1
    # Conditions that do not name the filters: the control, in which old decisions are used.
    _run(journal, tokenizer, loose, conditions="")
    assert len(_run(journal, tokenizer, conditions="")[0]) == len(first) + COUNT // 10


def test_what_a_request_says_is_a_condition(journal: Path, tokenizer: Tokenizer) -> None:
    writer = build_language_model_writer(CONFIG, False, tokenizer, journal, None)
    writer.decisions("x")
    notes = [writer._ledger.journal.noted("conditions of the decisions")]
    writer._ledger.journal.close()
    for config in (replace(CONFIG, concurrency=3), replace(CONFIG, temperature=0.1)):
        writer = build_language_model_writer(config, False, tokenizer, journal, None)
        writer.decisions("x")
        notes.append(writer._ledger.journal.noted("conditions of the decisions"))
        writer._ledger.journal.close()
    assert notes[0] == notes[1] != notes[2]


def test_a_decision_about_other_evidence_is_not_used(
    journal: Path, tokenizer: Tokenizer, checked: list[str]
) -> None:
    first = _run(journal, tokenizer)
    with contextlib.closing(Journal(journal)) as kept:
        rows = kept.decisions.between("fine_grained", 0, 2)
        kept.decisions.add([("fine_grained", 0, rows[1])])
    checked.clear()
    assert _run(journal, tokenizer) == first
    assert sorted(checked) == ["fine_grained/0", f"fine_grained/{GIVEN_UP}"]
