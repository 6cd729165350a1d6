"""Counting a conversation's ids without keeping them."""

from pathlib import Path

from megatron_in2.records import ContextPart, JoinedPart
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.film import FILM
from megatron_in2.templates.ids import TokenCounter, part_ids
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer


def _counts_agree(template: Template, tokenizer: Tokenizer, texts: list[str]) -> None:
    counter = TokenCounter(tokenizer)
    for text, answer in zip(texts, reversed(texts), strict=True):
        before, after = template.wording.around_context(text[:80])
        for message in (
            text,
            ContextPart(before, text, after),
            JoinedPart(before, Path("store"), (0,), after),
        ):
            parts = template.parts(None, [Turn(message, answer)])
            assert counter.count(parts) == len(part_ids(parts, tokenizer))


def test_counts_are_those_of_the_ids(tokenizer: Tokenizer, texts: list[str]) -> None:
    _counts_agree(FILM, tokenizer, texts[:40])


def test_counts_of_byte_level_models_too(llama3: Path, texts: list[str]) -> None:
    tokenizer = load_tokenizer(str(llama3))
    _counts_agree(load_template("chatml"), tokenizer, texts[:40])
