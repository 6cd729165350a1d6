"""Strategy files, and where a reply has its final answer."""

from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.erasure.strategies import Strategy, load_strategies
from megatron_in2.synthesis.llm.envelopes import Reply

MARKED = Strategy("s", "Close with Final answer: it.", "Final answer:")


def test_the_package_has_the_six_strategies() -> None:
    found = load_strategies(None)
    assert sorted(found) == [
        "direct", "explain-then-answer", "quote-then-answer", "recall-reason-generate",
        "recall-then-generate", "step-by-step",
    ]  # fmt: skip
    assert [name for name, each in found.items() if each.needs_evidence] == ["quote-then-answer"]
    assert [name for name, each in found.items() if each.answer_mark is None] == ["direct"]


@pytest.mark.parametrize(
    ("text", "final"),
    [
        ("So.\nFinal answer: Four.", "Four."),
        ("So.\n**Final answer:** Four.", "Four."),
        ("So.\n**Final Answer**: **Four.**", "Four."),
        ("final answer: 3? No.\nFINAL  ANSWER: Four.\nOr 4.", "Four.\nOr 4."),
        ("所以 Final answer：四", "四"),
    ],
)
def test_the_final_answer_is_behind_the_last_mark(text: str, final: str) -> None:
    read = MARKED.read(Reply(f" {text}\n", None))
    assert (read.text, read.final, read.problem) == (text, final, None)
    assert Strategy("d", "Be brief.").read(Reply(text, None)).final == text


@pytest.mark.parametrize(
    ("reply", "problem"),
    [
        (Reply("", "reply cut off at max_answer_tokens"), "reply cut off at --max-new-tokens"),
        (Reply("Four.", None), "final answer is not marked"),
        (Reply("Final answer: **", None), "empty final answer"),
        (Reply("Final answer: \ud83d", None), "unreadable characters"),
        (Reply("x" * 40_001, None), "reply too long"),
    ],
)
def test_replies_without_a_final_answer(reply: Reply, problem: str) -> None:
    assert MARKED.read(reply).problem == problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: a\n", "field 'prompt' must be text, found None"),
        ("name: a b\nprompt: P\n", "field 'name' is 'a b'"),
        ("name: a\nprompt: P\nneeds_evidence: 1\n", "'needs_evidence' must be true or false"),
        ("name: a\nprompt: P\nanswer_mark: 'So:'\n", "the prompt does not ask for 'So:'"),
        ("name: a\nprompt: P\nmark: x\n", "give the fields name, prompt, answer_mark"),
        ("- a\n", "give the fields"),
        ("{", "is not readable as YAML"),
        ("name: other\nprompt: P\n", "other is another file's: rename one"),
    ],
)
def test_files_that_are_no_strategy(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=r"--strategies .*: name a directory with strategy files"):
        load_strategies(tmp_path)
    (tmp_path / "a.yaml").write_text("name: other\nprompt: P\n")
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(InputError, match=words):
        load_strategies(tmp_path)
