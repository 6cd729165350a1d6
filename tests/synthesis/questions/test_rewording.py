"""Questions are reworded until nothing but names leads to their evidence, or dropped."""

import asyncio

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import CorpusConfig, FilterConfig, SynthesisConfig
from megatron_in2.synthesis.quality.config import QuestionConfig
from megatron_in2.synthesis.questions.rewording import REASON, is_reworded, reworded
from megatron_in2.synthesis.questions.writer import Draft, Evidence

TEXT = "The council of Arlen closed its harbour road to lorries in May."
EVIDENCE = Evidence("fine_grained/x/0", "fine_grained", (0,), (TEXT,))
DIRECT = Draft("Why did Arlen close its harbour road?", "After accidents.")
INDIRECT = "What became of the way along the port of Arlen?"


class _Rewriter:
    """Gives the questions it is told, in order."""

    def __init__(self, *questions: Draft) -> None:
        self.left = list(questions)
        self.avoided: list[tuple[str, ...]] = []

    async def reword(self, evidence: Evidence, draft: Draft, avoided: tuple[str, ...]) -> Draft:
        self.avoided.append(avoided)
        return self.left.pop(0)


def _reworded(writer: _Rewriter, tries: int = 2) -> tuple[Draft, str | None]:
    return asyncio.run(reworded(DIRECT, EVIDENCE, tries, FilterConfig(), writer))  # type: ignore[arg-type]


def test_a_question_is_reworded_until_it_shares_no_word() -> None:
    writer = _Rewriter(Draft("Why is the road of Arlen shut?"), Draft(INDIRECT))
    draft, reason = _reworded(writer)
    assert (draft.question, draft.answer, reason) == (INDIRECT, DIRECT.answer, None)
    assert writer.avoided == [("close", "harbour", "road"), ("road",)]


def test_one_that_cannot_be_reworded_is_dropped() -> None:
    writer = _Rewriter(Draft("Which road?"), Draft("Which roads?"))
    assert _reworded(writer)[1] == REASON
    assert writer.left == []
    assert _reworded(_Rewriter(Draft(problem="empty reply")))[1] == "empty reply"
    spoken = _Rewriter(Draft("What is mentioned in the passage?"))
    assert _reworded(spoken)[1] == "speaks of the context"


def test_a_question_without_shared_words_costs_nothing() -> None:
    draft = Draft(INDIRECT, "It was shut.")
    writer = _Rewriter()
    kept = asyncio.run(reworded(draft, EVIDENCE, 2, FilterConfig(), writer))  # type: ignore[arg-type]
    assert kept == (draft, None)


def test_the_share_is_kept() -> None:
    chosen = sum(is_reworded(f"fine_grained/{number}", 0.3) for number in range(2000))
    assert 500 < chosen < 700
    assert not any(is_reworded(str(number), 0.0) for number in range(100))
    assert all(is_reworded(str(number), 1.0) for number in range(100))


def test_a_writer_that_cannot_reword_is_refused() -> None:
    config = SynthesisConfig(CorpusConfig("python"), questions=QuestionConfig(low_overlap=0.5))
    with pytest.raises(InputError, match="extractive cannot reword"):
        config.validate()
