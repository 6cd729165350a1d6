"""Each filter drops what it should, and nothing else."""

import asyncio
import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.synthesis.config import FilterConfig
from megatron_in2.synthesis.quality.words import as_words, words
from megatron_in2.synthesis.questions import filters
from megatron_in2.synthesis.questions.filters import (
    cites_rightly,
    copies_more,
    first_paid_problem,
    first_problem,
    question_key,
    speaks_of_context,
    token_f1,
)
from megatron_in2.synthesis.questions.writer import Citation, Draft, Evidence

TEXT = "The river Aller rises near Seehausen and flows north to the Weser at Verden."
ONE = Evidence("fine_grained/x/0", "fine_grained", (0,), (TEXT,))
TWO = Evidence("integration/x", "integration", (0, 1), (TEXT, "Verden lies 35 km from Bremen."))
GOOD = Draft("Where does the Aller meet the Weser?", "They meet in the town of Verden.")


@pytest.mark.parametrize(
    "phrase",
    [
        "Based on the provided context, who won?",
        "What happened according to the article?",
        "Which river is mentioned in the passage?",
        "What does the given text say?",
        "In this document, who is named?",
        "The context states that it rained.",
        "As stated in the text, it rained.",
        "What does piece 2 add?",
    ],
)
def test_context_phrases_are_found(phrase: str) -> None:
    assert speaks_of_context(Draft(phrase, "x"))
    assert speaks_of_context(Draft("x", phrase))


@pytest.mark.parametrize(
    "phrase",
    [
        "In the context of European law, what is a directive?",
        "Who signed the peace treaty of 1648?",
        "According to Darwin, what drives change?",
        "Which text editor did she use?",
        "What does Article 5 of the NATO treaty demand?",
    ],
)
def test_ordinary_questions_pass(phrase: str) -> None:
    assert not speaks_of_context(Draft(phrase, "x"))


def test_looking_for_a_source_first_misses_no_phrase() -> None:
    """Over all words of the expression: what it finds, alone, is what the check finds."""
    phrase = filters._CONTEXT_PHRASE
    words = sorted(set(re.findall(r"[a-zA-Z]+", phrase.pattern)))
    starts = ("in", "based on", "mentioned in", "laut", "selon", "dans", "en", "the", "")
    articles = ("the", "this", "the given", "dem", "diesem", "le", "ce", "el", "este", "")
    found = 0
    for start, article, word in itertools.product(starts, articles, words):
        text = f"What, {start} {article} {word} says 3?"
        found += (expected := phrase.search(text) is not None)
        assert speaks_of_context(Draft(text, "x")) == expected, text
    assert found > 200


def _longest_copied(answer: str, texts: tuple[str, ...]) -> int:
    return sum(copies_more(answer, texts, most) for most in range(20))


def test_copied_runs_are_measured_in_words() -> None:
    assert _longest_copied("It rises near Seehausen, and flows north!", (TEXT,)) == 6
    assert _longest_copied("Nothing alike", (TEXT,)) == 0
    assert _longest_copied("rise near", (TEXT,)) == 1  # whole words only
    # A run does not go on from one text into another.
    assert _longest_copied("at Verden Verden lies", TWO.texts) == 2


_SOME_WORDS = st.lists(st.sampled_from(["one", "two", "on", "straße", "Two", "河", "e,"]))


@given(_SOME_WORDS, _SOME_WORDS, st.integers(0, 8))
def test_looking_for_words_first_misses_no_copied_run(
    answer: list[str], text: list[str], most: int
) -> None:
    """Against every run of words, compared one by one."""
    answered, held = words(" ".join(answer)), words(" ".join(text))
    length = as_words(most, answered) + 1
    runs = {tuple(held[at : at + length]) for at in range(len(held) - length + 1)}
    expected = any(
        tuple(answered[at : at + length]) in runs for at in range(len(answered) - length + 1)
    )
    assert copies_more(" ".join(answer), (" ".join(text),), most) == expected


def test_quotes_must_stand_in_their_pieces() -> None:
    def draft(*quotes: tuple[int, str]) -> Draft:
        return Draft("q", "a", tuple(Citation(*quote) for quote in quotes))

    assert cites_rightly(draft((0, "flows NORTH\nto"), (1, "35 km")), TWO)
    assert not cites_rightly(draft((0, "flows south"), (1, "35 km")), TWO)
    assert not cites_rightly(draft((1, "flows north"), (0, "35 km")), TWO)
    assert not cites_rightly(draft((0, "flows north"), (0, "Aller")), TWO)
    assert not cites_rightly(draft((0, "flows north"), (2, "35 km")), TWO)
    assert not cites_rightly(draft((0, "flows north"), (-1, "35 km")), TWO)
    assert not cites_rightly(draft((0, "flows north"), (1, " ")), TWO)
    assert not cites_rightly(draft(), TWO)


def test_every_filter_can_be_switched() -> None:
    off = FilterConfig(context_phrases=False, max_copied_words=0, citations=False)
    assert first_problem(GOOD, ONE, FilterConfig()) is None
    for draft, evidence, reason in (
        (Draft("What does the text say?", "That."), ONE, "speaks of the context"),
        (Draft("What?", TEXT), ONE, "answer copied from the evidence"),
        (GOOD, TWO, "evidence lacks what the answer cites"),
    ):
        assert first_problem(draft, evidence, FilterConfig(max_copied_words=10)) == reason
        assert first_problem(draft, evidence, off) is None
    assert first_problem(Draft(problem="malformed reply"), ONE, off) == "malformed reply"


class _Oracle:
    """Knows one answer, and supports one."""

    window = 1

    async def answer_from_memory(self, question: str) -> str | None:
        return "In the town of Verden they meet." if "Aller" in question else None

    async def is_right(self, draft: Draft, guess: str) -> bool:
        return guess.startswith("In the town") and draft.answer == GOOD.answer

    async def supports(self, evidence: Evidence, draft: Draft) -> bool:
        return "Verden" in draft.answer


def _paid_problem(draft: Draft, **config: object) -> str | None:
    return asyncio.run(first_paid_problem(draft, ONE, FilterConfig(**config), _Oracle()))


@pytest.mark.parametrize("judge", ["model", "f1"])
def test_questions_answered_without_evidence_are_dropped(judge: str) -> None:
    options = {"closed_book": True, "closed_book_judge": judge}
    assert _paid_problem(GOOD, **options) == "answerable without the evidence"
    assert _paid_problem(GOOD) is None
    assert _paid_problem(Draft("Where?", "Verden"), **options) is None
    other = Draft(GOOD.question, "Nobody has ever been able to find out.")
    assert _paid_problem(other, **options) is None


def test_unsupported_answers_are_dropped() -> None:
    assert _paid_problem(GOOD, verify=True) is None
    wrong = Draft("Where?", "In Bremen.")
    assert _paid_problem(wrong, verify=True) == "evidence does not support the answer"
    assert _paid_problem(wrong) is None


def test_questions_that_differ_in_dress_only_are_the_same() -> None:
    assert question_key("Who won?") == question_key("  who WON ?")
    assert question_key("Who won?") != question_key("Who lost?")


def test_token_f1() -> None:
    assert token_f1("a b", "B a!") == 1.0
    assert token_f1("a b", "c") == 0.0
    assert token_f1("a b c d", "a b") == pytest.approx(2 / 3)
    assert token_f1("", "") == 0.0
