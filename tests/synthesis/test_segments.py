"""The paper's Algorithm 1, its short-text hole guarded, ids joined exactly."""

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.records import Document
from megatron_in2.synthesis.segments import split_into_segments
from megatron_in2.tokenizers.base import Tokenizer


def _split(text: str, tokenizer: Tokenizer, min_tokens: int) -> list[tuple[str, list[int]]]:
    return split_into_segments(Document("id", text), tokenizer, min_tokens)


def test_lines_are_gathered_and_the_rest_joins_the_last(tokenizer: Tokenizer) -> None:
    lines = ["one two three four", "five six seven eight", "nine ten eleven", "twelve"]
    segments = _split("\n".join(lines), tokenizer, 6)
    assert [text for text, _ in segments] == ["\n".join(lines[:2]), "\n".join(lines[2:])]


def test_a_short_text_is_one_segment(tokenizer: Tokenizer) -> None:
    assert [text for text, _ in _split("Hello", tokenizer, 128)] == ["Hello"]


@settings(max_examples=100, deadline=None)
@given(
    lines=st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=12),
    min_tokens=st.integers(1, 40),
)
def test_segments_hold_every_line_once(
    tokenizer: Tokenizer, lines: list[str], min_tokens: int
) -> None:
    text = "\n".join(lines)
    segments = _split(text, tokenizer, min_tokens)
    kept = [line for line in text.split("\n") if line.strip()]
    assert "\n".join(text for text, _ in segments) == "\n".join(kept)
    for text, ids in segments:
        assert ids == tokenizer.encode(text, "text")
        assert len(ids) >= min_tokens or len(segments) == 1
