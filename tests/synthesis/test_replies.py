"""What a model may write, and what the server may send, is read or named."""

import json

import pytest

from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.replies import checked_envelope, read_draft, read_reply
from megatron_in2.synthesis.writer import Citation

PAIR = {"question": "Who?", "answer": "He."}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PAIR),
        f"```json\n{json.dumps(PAIR, indent=2)}\n```",
        f"Here it is: {json.dumps(PAIR)} I hope it helps.",
        "Question: Who?\nAnswer: He.",
        "**Question:** Who?\n\n**Answer:** He.",
        "question: Who?\nANSWER: He.\n",
    ],
)
def test_pairs_are_read_in_any_dress(text: str) -> None:
    draft = read_draft(text)
    assert (draft.question.strip("* "), draft.answer.strip("* "), draft.problem) == (
        "Who?",
        "He.",
        None,
    )


def test_quotes_are_read() -> None:
    wanted = (Citation(0, "he came"), Citation(2, "and went"))
    quotes = [{"piece": 1, "quote": "he came"}, {"piece": 3, "quote": "and went"}]
    assert read_draft(json.dumps({**PAIR, "quotes": quotes})).citations == wanted
    text = 'Question: Who?\nAnswer: He.\nQuotes:\n[1] "he came"\n[3] "and went"'
    assert read_draft(text).citations == wanted
    assert read_draft(text).answer == "He."
    broken = [{"piece": "1", "quote": "x"}, {"piece": True, "quote": "x"}, 5, {"piece": 1}]
    assert read_draft(json.dumps({**PAIR, "quotes": broken})).citations == ()


@pytest.mark.parametrize(
    "text",
    ['{"question": "Half', "no pair at all", "[1, 2]", '{"question": 1, "answer": "x"}', "{}"],
)
def test_malformed_pairs_are_named(text: str) -> None:
    assert read_draft(text).problem == "malformed reply"


def test_empty_pairs_are_named() -> None:
    assert read_draft('{"question": " ", "answer": "x"}').problem == "empty question or answer"


def _envelope(**choice: object) -> dict:
    message = {"role": "assistant", "content": "text"}
    return {"choices": [{"message": message, "finish_reason": "stop", **choice}], "usage": None}


@pytest.mark.parametrize(
    ("choice", "problem"),
    [
        ({}, None),
        ({"finish_reason": "length"}, "reply cut off at max_answer_tokens"),
        ({"finish_reason": "content_filter"}, "the model refused"),
        ({"message": {"content": None, "refusal": "no"}}, "the model refused"),
        ({"message": {"content": None}}, "empty reply"),
    ],
)
def test_replies_say_their_problem(choice: dict, problem: str | None) -> None:
    assert read_reply(_envelope(**choice)).problem == problem


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '{"choices": null}', '{"choices": []}', '{"choices": [{}]}']
)
def test_broken_envelopes_are_worth_another_try(body: str) -> None:
    with pytest.raises(FailedCallError) as caught:
        checked_envelope(body)
    assert caught.value.retry
    assert caught.value.perhaps_billed
