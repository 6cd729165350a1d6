"""Prompt Erasing to the token: a sample's own prompt is not in the input, in any form."""

from pathlib import Path
from typing import Any

import pytest

from megatron_in2.data.packing.encoding.designs import DESIGNS
from megatron_in2.data.packing.encoding.encode import SampleEncoder
from megatron_in2.data.packing.encoding.samples import KEPT_PROMPT, SampleError, SampleReader
from megatron_in2.segment_store import write_store
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.base import Tokenizer

PROMPT = "Quote the one line that counts, then answer."
GENERIC = "Be of help."
LINES = ["A lamp is at the pier.", "It is red."]
ANSWER = '"It is red."\nFinal answer: Red.'
ASKED = {"question": "Which colour?", "answer": ANSWER}
ERASED = {"id": "a", "kind": "k", "system": PROMPT, "strategy": "quote"}
CONTEXT = "\n".join(LINES)
# What FILM's wording is, written out by hand.
WITH_CONTEXT = (
    "Below is a context and an instruction. Based on the information provided in the context, "
    f"write a response for the instruction.\n\n### Context:\n{CONTEXT}\n\n"
    "### Instruction:\nWhich colour?"
)
WITHOUT = (
    "Below is a user instruction. Write a response for the instruction.\n\n"
    "### Instruction:\nWhich colour?"
)


@pytest.fixture
def records(tmp_path: Path, tokenizer: Tokenizer) -> dict[str, tuple[dict[str, Any], str]]:
    """Every form of sample that has a prompt, and its user's message."""
    store = tmp_path / "s.segments"
    ids = tokenizer.encode_lines(LINES)
    write_store(store, [("d", list(zip(LINES, ids, strict=True)))], tokenizer)
    recipe = {"store": store.name, "segments": [0, 1], "evidence": [1], "n_tokens": 3}
    turns = [
        {"role": "system", "content": PROMPT},
        {"role": "user", "content": "Which colour?"},
        {"role": "assistant", "content": ANSWER},
    ]
    return {
        "text": ({**ERASED, **ASKED, "context": CONTEXT}, WITH_CONTEXT),
        "plain": ({**ERASED, **ASKED}, WITHOUT),
        "recipe": ({**ERASED, **ASKED, **recipe}, WITH_CONTEXT),
        "chat": ({"id": "a", "kind": "k", "strategy": "quote", "messages": turns}, "Which colour?"),
    }


@pytest.mark.parametrize("form", ["text", "plain", "recipe", "chat"])
def test_ids_and_mask_are_those_of_the_erased_conversation(
    form: str, records: dict[str, tuple[dict[str, Any], str]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    record, message = records[form]
    for design, generic, said in (
        ("prompt-erasing", GENERIC, f"{GENERIC}\n\n{message}"),
        ("prompt-erasing", "", message),
        ("answer", GENERIC, f"{PROMPT}\n\n{message}"),
    ):
        reader = SampleReader(FILM, DESIGNS[design], generic)
        sample = SampleEncoder(tokenizer).encode(reader.read(record, "x:1", tmp_path))
        prompt = [1, *tokenizer.encode(f"[INST] {said} [/INST]")]
        answer = [*tokenizer.encode(ANSWER), 2]
        assert sample.tokens.tolist() == prompt + answer
        assert sample.loss_mask.tolist() == [0] * len(prompt) + [1] * len(answer)
        # A prompt that stays is said: such a dataset is packed by mistake, or as a control.
        assert reader.notes[KEPT_PROMPT] == (design == "answer")


def test_a_template_with_system_turns_has_the_generic_one(
    records: dict[str, tuple[dict[str, Any], str]], tokenizer: Tokenizer, tmp_path: Path
) -> None:
    reader = SampleReader(CHATML, DESIGNS["prompt-erasing"], GENERIC)
    for record, _ in records.values():
        sample = SampleEncoder(tokenizer).encode(reader.read(record, "x:1", tmp_path))
        text = tokenizer.decode(sample.tokens)
        assert f"<|im_start|>system\n{GENERIC}<|im_end|>" in text
        assert "Which colour?<|im_end|>" in text
        assert PROMPT not in text


def test_a_prompt_where_none_is_possible_is_refused(tmp_path: Path) -> None:
    reader = SampleReader(FILM, DESIGNS["prompt-erasing"])
    turns = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    parts = [{"text": "Q", "learn": False}, {"text": "A", "learn": True}]
    for form, words in (
        ({"messages": turns}, "field 'system' belongs in 'messages'"),
        ({"parts": parts}, "field 'system' is not for parts"),
    ):
        with pytest.raises(SampleError, match=words):
            reader.read({**ERASED, **form}, "x:1", tmp_path)
        # An empty one, as many datasets have it, is none.
        reader.read({**ERASED, "system": "", **form}, "x:1", tmp_path)
    for name, value in (("system", 3), ("strategy", ["quote"])):
        with pytest.raises(SampleError, match=f"field '{name}' must be str"):
            reader.read({**ERASED, **ASKED, name: value}, "x:1", tmp_path)
    with pytest.raises(SampleError, match="'attempt' is not for design prompt-erasing"):
        reader.read({**ERASED, **ASKED, "attempt": "Blue."}, "x:1", tmp_path)
    assert not reader.notes
