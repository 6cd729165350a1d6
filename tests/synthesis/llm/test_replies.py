"""What a model may write, and what the server may send, is read or named."""

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.synthesis.llm.envelopes import checked_envelope, priced_reply, read_reply
from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.replies import read_draft, read_object
from megatron_in2.synthesis.llm.spending import Price, Usage
from megatron_in2.synthesis.questions.writer import Citation

PAIR = {"question": "Who?", "answer": "He."}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PAIR),
        f"```json\n{json.dumps(PAIR, indent=2)}\n```",
        f"Here it is: {json.dumps(PAIR)} I hope it helps.",
        "Question: Who?\nAnswer: He.",
        "**Question:** Who?\n\n**Answer:** He.",
        "**Question**\nWho?\n**Answer**\nHe.",
        "question: Who?\nANSWER: He.\n",
        "Q: Who?\nA: He.",
        "1. Question: Who?\n2. Answer: He.",
        # The paper's form, whose prompt ends in "### Question ###:", and how models vary it.
        "Who?\n\n### Answer ###:\nHe.",
        " Who? ### Answer ###: He.",
        "### Question ###: Who?\n\n### Answer ###: He.",
        "### Question\nWho?\n\n### Answer\nHe.",
        "## Question:\n**Who?**\n## Answer:\nHe.\n\n## Explanation:\nHe is named.",
        "Sure, here it is:\n\nQuestion 1: Who?\nAnswer 1: He.",
        "问题：Who?\n答案：He.",
    ],
)
def test_pairs_are_read_in_any_form(text: str) -> None:
    draft = read_draft(text)
    assert (draft.question, draft.answer, draft.problem) == ("Who?", "He.", None)


def test_answers_keep_their_own_marks() -> None:
    assert read_draft("Q: How cold?\nA: -5 degrees").answer == "-5 degrees"
    assert read_draft("Q: How?\nA: **Bold** it is").answer == "**Bold** it is"
    assert read_draft("Q: How?\n### Answer ###:\n## A new way").answer == "## A new way"
    assert read_draft(json.dumps({"question": "Q", "answer": "a\nb"}).replace("\\n", "\n")) == (
        read_draft(json.dumps({"question": "Q", "answer": "a\nb"}))
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
def test_malformed_pairs_are_named_and_shown(text: str) -> None:
    draft = read_draft(text)
    assert (draft.problem, draft.reply) == ("malformed reply", text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[" * 20_000 + "{" * 10_000 + "}", "malformed reply"),
        ('{"a":' * 5_000 + "1" + "}" * 5_000, "malformed reply"),
        (r'{"question": "Who \ud83d?", "answer": "He."}', "unreadable characters"),
        (r'{"question": "Who?", "answer": "He.\u0000"}', "unreadable characters"),
        ("Question: Who?\nAnswer: \udc00", "unreadable characters"),
        ("x" * 50_000, "reply too long"),
    ],
)
def test_what_breaks_readers_is_rejected(text: str, problem: str) -> None:
    assert read_draft(text).problem == problem


@pytest.mark.parametrize("piece", ["\n", "#", "Answer", "### ", "*", "{", "Answer:", "\n## answer"])
def test_no_reply_takes_long_to_read(piece: str) -> None:
    started = time.process_time()
    read_draft(piece * (39_000 // len(piece)))
    assert time.process_time() - started < 2.0


@given(st.text() | st.text(alphabet='{}[]":,\\ud83d0 \n#*AnswerQuestion'))
def test_any_text_is_read_to_an_end(text: str) -> None:
    draft = read_draft(text)
    assert (draft.problem is None) == bool(draft.question and draft.answer)
    assert read_object(text) is None or isinstance(read_object(text), dict)
    (draft.question + draft.answer).encode()


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
        ({"message": {"content": "<think>Let me see.</think>\n"}}, "empty reply"),
        ({"message": {"content": "<think>No end"}}, "empty reply"),
    ],
)
def test_replies_say_their_problem(choice: dict, problem: str | None) -> None:
    assert read_reply(_envelope(**choice)).problem == problem


@pytest.mark.parametrize(
    "body",
    [
        "", "{", "[]", "null", '{"choices": null}', '{"choices": []}', '{"choices": [{}]}',
        '{"choices": [{"message": 5}]}', "[" * 20_000, '{"choices": ["x"]}',
    ],
)  # fmt: skip
def test_broken_envelopes_are_worth_another_try(body: str) -> None:
    with pytest.raises(FailedCallError) as caught:
        checked_envelope(body)
    assert caught.value.retry
    assert caught.value.perhaps_billed


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "in "}, {"type": "text", "text": "parts"}], "in parts"),
        ("<think>It is 5.</think>\n\nfive", "\n\nfive"),
    ],
)
def test_the_text_is_found_in_every_kind_of_message(content: object, text: str) -> None:
    assert read_reply(_envelope(message={"content": content})).text == text


PRICE = Price(input=10.0, output=30.0, cached_input=1.0, as_of=None)


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"prompt_tokens": 1000, "completion_tokens": 100}, 0.013),
        (
            {
                "prompt_tokens": 1000,
                "completion_tokens": 100,
                "prompt_tokens_details": {"cached_tokens": 900},
            },
            (100 * 10 + 900 * 1 + 100 * 30) / 1e6,
        ),
        # Nothing that makes sense is stated: the worst case is booked.
        (None, 0.5),
        ({}, 0.5),
        ({"prompt_tokens": -1, "completion_tokens": 5}, 0.5),
        ({"prompt_tokens": "many", "completion_tokens": 5}, 0.5),
        ({"prompt_tokens": 5, "completion_tokens": float("nan")}, 0.5),
        ({"prompt_tokens": 5, "completion_tokens": True}, 0.5),
    ],
)
def test_a_reply_costs_what_its_usage_says_or_the_worst(usage: object, cost: float) -> None:
    envelope = {**_envelope(), "usage": usage}
    assert priced_reply(envelope, PRICE, worst_cost=0.5).cost == pytest.approx(cost)
    assert PRICE.worst_cost(1000, 100) == PRICE.cost(Usage(1000, 100)) == pytest.approx(0.013)
