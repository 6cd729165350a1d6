"""The paper's Algorithm 1, its short-text hole guarded, ids joined exactly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.records import Document
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.tokenizers.base import Tokenizer


def _split(
    text: str, tokenizer: Tokenizer, min_tokens: int, max_tokens: int = 0
) -> list[tuple[str, list[int]]]:
    return split_into_segments(Document("id", text), tokenizer, min_tokens, max_tokens)


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


@pytest.mark.parametrize(
    ("sentence", "between"),
    [
        ("The river rises in the hills and meets the sea.", " "),
        ("这条河发源于山区，流入大海。", ""),
    ],
)
def test_a_long_line_is_cut_at_sentences(tokenizer: Tokenizer, sentence: str, between: str) -> None:
    line = between.join([sentence] * 40)
    (whole,) = _split(line, tokenizer, 20)
    parts = _split(line, tokenizer, 20, 80)
    assert len(whole[1]) > 400
    assert len(parts) > 5
    for text, ids in parts:
        assert not text.replace(sentence, "").strip()
        assert 20 <= len(ids) <= 80


def test_without_sentences_words_are_cut_and_without_words_characters(
    tokenizer: Tokenizer,
) -> None:
    words = [text for text, _ in _split("river " * 300, tokenizer, 20, 80)]
    assert {word for text in words for word in text.split()} == {"river"}
    characters = _split("xyzw" * 500, tokenizer, 20, 80)
    assert "".join(text for text, _ in characters) == "xyzw" * 500
    assert all(len(ids) <= 80 for _, ids in characters)


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.sampled_from("ab. \n。？é😀"), min_size=1, max_size=400),
    min_tokens=st.integers(1, 20),
)
def test_cuts_lose_nothing_and_leave_short_segments_alone(
    tokenizer: Tokenizer, text: str, min_tokens: int
) -> None:
    whole = _split(text, tokenizer, min_tokens)
    parts = _split(text, tokenizer, min_tokens, 40)
    assert "".join("".join(part for part, _ in parts).split()) == "".join(text.split())
    for part, ids in parts:
        assert len(ids) <= 40
        assert [ids] == tokenizer.encode_lines([part])
    for segment in whole:
        assert len(segment[1]) > 40 or segment in parts
