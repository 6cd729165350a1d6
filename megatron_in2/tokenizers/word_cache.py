"""Tokenising through dictionaries of words already encoded, exact to the id.

BPE only ever merges what some piece of the model holds side by side. Between two characters that
no piece holds side by side a text can be cut, and its ids are those of the cuttings. Real text
repeats its words, so most of it is then looked up instead of merged: first words between spaces;
the new ones among these by runs of letters, digits or marks; what is new there is tokenised.
"""

import itertools
import re
import string
from typing import Any, Protocol

import numpy as np

from megatron_in2.records import Follows
from megatron_in2.tokenizers.base import token_dtype
from megatron_in2.tokenizers.dictionary import MAX_CHARACTERS, Dictionary

SPACE = "▁"  # what SentencePiece writes for a space; the character itself encodes like a space

# A word with the spaces before it, spaces with no word behind, or a newline.
_SPACED_WORD = re.compile(rf"[ {SPACE}]*[^ {SPACE}\n]+|[ {SPACE}]+|\n")


class SplitsAtSpaces(Protocol):
    """A tokenizer whose ids of a text are the ids of its words, each encoded by itself.

    A newline is an id of its own.
    """

    @property
    def vocab_size(self) -> int: ...

    @property
    def newline_id(self) -> int: ...

    @property
    def merged_pieces(self) -> list[str]:
        """The pieces that text can turn into: no control tokens and no single bytes."""

    def dummy_prefix(self, text: str, follows: Follows) -> str:
        """Return the space that encoding puts before a text, or nothing."""

    def encode(self, text: str, follows: Follows = "nothing") -> list[int]: ...


class WordEncoder:
    """Encodes texts to the bytes of their ids.

    Args:
        tokenizer: one that splits at spaces.
        max_characters: bound of each dictionary.
    """

    def __init__(self, tokenizer: SplitsAtSpaces, max_characters: int = MAX_CHARACTERS) -> None:
        self._tokenizer = tokenizer
        self.dtype: np.dtype[Any] = np.dtype(token_dtype(tokenizer.vocab_size))
        self._newline = np.array(tokenizer.newline_id, self.dtype)
        self._run_pattern = run_pattern(tokenizer.merged_pieces)
        self._runs = Dictionary(self._encode_runs, max_characters)
        self._words = Dictionary(self._encode_words, max_characters)
        self._longest = max(map(len, tokenizer.merged_pieces))

    def least_tokens(self, characters: int) -> int:
        """Return how many tokens a text of so many characters has at least."""
        return characters // self._longest

    def encode(self, text: str, follows: Follows = "nothing") -> bytes:
        """Encode a text, by itself or behind something."""
        if not text:
            return b""
        spaced = self._tokenizer.dummy_prefix(text, follows) + text
        return self._words.encode(_SPACED_WORD.findall(spaced))

    def _encode_words(self, words: list[str]) -> list[bytes]:
        runs = [self._run_pattern.findall(word) for word in words]
        self._runs.add(list(itertools.chain.from_iterable(runs)))
        return [self._runs.encode(each) for each in runs]

    def _encode_runs(self, runs: list[str]) -> list[bytes]:
        """Tokenise runs in one go: newlines keep them apart, as no merge crosses one."""
        plain = [run for run in runs if run != "\n"]
        ids = np.array(self._tokenizer.encode("\n".join(plain), follows="text"), self.dtype)
        ends = np.flatnonzero(ids == self._newline)
        encoded = [each.tobytes() for each in _split(ids, ends)] if plain else []
        known = dict(zip(plain, encoded, strict=True)) | {"\n": self._newline.tobytes()}
        return [known[run] for run in runs]


def _split(ids: np.ndarray[Any, Any], ends: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """Return what is before, between and behind the ids at some places."""
    starts = [0, *(ends + 1).tolist()]
    return [ids[a:b] for a, b in zip(starts, [*ends.tolist(), len(ids)], strict=True)]


def run_pattern(merged_pieces: list[str]) -> re.Pattern[str]:
    r"""Return what matches the runs into which any text may be cut, one after the other.

    A run is letters, marks or some digits, with the spaces before it; or spaces alone; or a
    newline. Marks are ASCII punctuation and every character that some piece holds beside a mark:
    in a model that merges letters with marks letters become marks, and the cuts are at spaces and
    newlines only.

    Args:
        merged_pieces: of a tokenizer that splits at spaces.
    """
    bodies = [piece.lstrip(SPACE) for piece in merged_pieces]
    digits = set(string.digits)
    digits_alone = not any(digits & set(body) for body in bodies if len(body) > 1)
    marks = set(string.punctuation) | (set() if digits_alone else digits)
    neighbours = {pair for body in bodies for pair in itertools.pairwise(body)}
    while tied := {
        other
        for pair in neighbours
        for mark, other in (pair, pair[::-1])
        if mark in marks and other not in marks
    }:
        marks |= tied
    mark = "".join(map(re.escape, sorted(marks)))
    letters = rf"[^{mark}0-9 {SPACE}\n]+"
    return re.compile(rf"[ {SPACE}]*(?:{letters}|[{mark}]+|[0-9]{{1,3}})|[ {SPACE}]+|\n")
