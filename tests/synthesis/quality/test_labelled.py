"""Each check of questions, measured on the hand-labelled sets of ``tests/synthesis/labelled``."""

import json
from typing import Any

import pytest

from megatron_in2.synthesis.config import FilterConfig
from megatron_in2.synthesis.quality.names import names_in
from megatron_in2.synthesis.quality.overlap import shared_words
from megatron_in2.synthesis.quality.sentences import sentences
from megatron_in2.synthesis.questions.filters import token_f1
from megatron_in2.synthesis.questions.restate import restated, supporting_sentences
from megatron_in2.synthesis.questions.writer import Citation, Draft
from tests.conftest import ROOT

LABELLED = ROOT / "tests" / "synthesis" / "labelled"


def _read(name: str) -> list[dict[str, Any]]:
    text = (LABELLED / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(("name", "label"), [("closed_book", "correct"), ("verify", "supported")])
def test_both_labels_are_as_frequent(name: str, label: str) -> None:
    """So that a judge that always says the same is right half the time."""
    right = sum(line[label] for line in _read(name))
    assert 0.45 < right / len(_read(name)) < 0.55


def test_token_f1_is_no_judge() -> None:
    """What it keeps and drops among guesses that share words: why a model judges by default."""
    lines, least = _read("closed_book"), FilterConfig().closed_book_f1
    agrees = [(token_f1(x["guess"], x["answer"]) >= least) == x["correct"] for x in lines]
    wrongly_dropped = sum(not ok and not x["correct"] for ok, x in zip(agrees, lines, strict=True))
    kept = sum(not ok and x["correct"] for ok, x in zip(agrees, lines, strict=True))
    print(
        f"token F1: {sum(agrees)} of {len(lines)} guesses judged rightly; {wrongly_dropped} wrong "
        f"guesses count as right, {kept} right ones as wrong"
    )
    assert FilterConfig().closed_book_judge == "model"
    assert sum(agrees) < len(lines) / 2


def test_names_are_found() -> None:
    found = wrong = missed = 0
    for line in _read("names"):
        got, wanted = names_in(line["text"]), set(line["names"])
        found += len(got & wanted)
        wrong += len(got - wanted)
        missed += len(wanted - got)
    print(f"names: {found} found, {wrong} wrong, {missed} missed")
    assert found >= 20
    assert wrong <= 1
    assert missed <= 1


def test_shared_words_are_those_that_a_reader_finds() -> None:
    lines = _read("overlap")
    right = sum(list(shared_words(x["question"], [x["evidence"]])) == x["shared"] for x in lines)
    print(f"shared content words: {right} of {len(lines)} questions as labelled")
    assert right >= 0.9 * len(lines)
    # A search for whole words, without stems and names, does much worse: the negative control.
    plain = [
        [w for w in x["question"].lower().rstrip("?").split() if w in x["evidence"].lower().split()]
        for x in lines
    ]
    assert sum(p == x["shared"] for p, x in zip(plain, lines, strict=True)) < right - 5


def test_answers_restate_the_sentences_that_they_rest_on() -> None:
    lines = _read("support")
    right = first = 0
    for line in lines:
        text, draft = " ".join(line["evidence"]), Draft(line["question"], line["answer"])
        assert sentences(text) == line["evidence"]
        wanted = [line["evidence"][place] for place in line["support"]]
        right += supporting_sentences(draft, text) == wanted
        first += wanted == line["evidence"][:1]
    print(f"supporting sentences: {right} of {len(lines)} as labelled")
    assert right >= 0.9 * len(lines)
    assert first < right / 2  # always the first sentence: the negative control


def test_a_restated_answer_begins_with_quotes() -> None:
    draft = Draft("Where?", "In Jena.", (Citation(0, "came  from\nJena"), Citation(1, "a lens")))
    assert restated(draft, ["x"]).answer == "> came from Jena\n> a lens\n\nIn Jena."
    plain = Draft("Where did the telescope come from?", "From Jena.")
    text = "It was large. The telescope came from Jena."
    assert restated(plain, [text]).answer == "> The telescope came from Jena.\n\nFrom Jena."
    assert restated(Draft("Who?", "Nobody."), ["Rain fell."]).answer == "Nobody."


def test_sentences_keep_titles_and_end_with_lines() -> None:
    text = "Dr. Okafor met J. Lund. They spoke!\nA heading\n他走了。她也走了。"
    assert sentences(text) == [
        "Dr. Okafor met J. Lund.", "They spoke!", "A heading", "他走了。", "她也走了。",
    ]  # fmt: skip
