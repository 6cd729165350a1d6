"""Tokenising through dictionaries of words already encoded, exact to the id.

BPE only ever merges what some piece of the model holds side by side. Between two characters that
no piece holds side by side a text can be cut, and its ids are those of the cuttings. Real text
repeats its words, so most of it is then looked up instead of merged: first words between spaces;
the new ones among these by runs of letters, digits or marks; what is new there is tokenised.
"""

import itertools
import re
import string
from collections.abc import Callable

import numpy as np

from megatron_in2.tokenizers.base import Tokenizer, token_dtype
from megatron_in2.tokenizers.sentencepiece import SPACE

MAX_CHARACTERS = 8_000_000  # a dictionary holds as keys, 150 MB at worst; then it starts anew

# A word with the spaces before it, spaces with no word behind, or a newline.
_SPACED_WORD = re.compile(rf"[ {SPACE}]*[^ {SPACE}\n]+|[ {SPACE}]+|\n")


class WordEncoder:
    """Encodes texts to the bytes of their ids; falls back to whole texts where words do not do.

    Args:
        tokenizer: any SentencePiece model.
        max_characters: bound of each dictionary.
    """

    def __init__(self, tokenizer: Tokenizer, max_characters: int = MAX_CHARACTERS) -> None:
        self._tokenizer = tokenizer
        self.dtype = np.dtype(token_dtype(tokenizer.vocab_size))
        self._continuation: Callable[[str], bytes] = self._tokenised
        if tokenizer.splits_at_spaces:
            newline = np.array(tokenizer.newline_id, self.dtype)
            runs = _Dictionary(run_pattern(tokenizer), self._tokenised, newline, max_characters)
            words = _Dictionary(_SPACED_WORD, runs.encode, newline, max_characters)
            self._continuation = words.encode
            self._longest = max(map(len, tokenizer.merged_pieces))

    def least_tokens(self, characters: int) -> int:
        """Return how many tokens a text of so many characters has at least; 0 if not known."""
        return characters // self._longest if self._tokenizer.splits_at_spaces else 0

    def encode(self, text: str) -> bytes:
        """Encode a text by itself, SentencePiece's dummy prefix before it."""
        if self._tokenizer.splits_at_spaces:
            return self._continuation(f" {text}") if text else b""
        return np.array(self._tokenizer.encode(text), self.dtype).tobytes()

    def encode_continuation(self, text: str) -> bytes:
        """Encode a text as it would be encoded behind a newline."""
        return self._continuation(text)

    def _tokenised(self, text: str) -> bytes:
        return np.array(self._tokenizer.encode_continuation(text), self.dtype).tobytes()


class _Dictionary:
    """Cuts texts by a pattern and looks the cuttings up; ``encode_new`` gives what is not there."""

    def __init__(
        self,
        pattern: re.Pattern[str],
        encode_new: Callable[[str], bytes],
        newline: np.ndarray[tuple[()], np.dtype[np.integer]],
        max_characters: int,
    ) -> None:
        self._pattern = pattern
        self._encode_new = encode_new
        self._newline = newline
        self._max_characters = max_characters
        self._known: dict[str, bytes] = {}
        self._characters = 0

    def encode(self, text: str) -> bytes:
        cuttings = self._pattern.findall(text)
        if missing := set(cuttings).difference(self._known):
            self._learn(missing, cuttings)
        return b"".join(map(self._known.__getitem__, cuttings))

    def _learn(self, missing: set[str], cuttings: list[str]) -> None:
        """Encode new cuttings in one go: newlines keep them apart, as no merge crosses one."""
        if self._characters + sum(map(len, missing)) > self._max_characters:
            self._known.clear()
            self._characters = 0
            missing = set(cuttings)
        self._characters += sum(map(len, missing))
        self._known["\n"] = self._newline.tobytes()
        plain = sorted(missing - {"\n"})
        if not plain:
            return
        raw, dtype = self._encode_new("\n".join(plain)), self._newline.dtype
        breaks = np.flatnonzero(np.frombuffer(raw, dtype) == self._newline) * dtype.itemsize
        starts = [0, *(breaks + dtype.itemsize).tolist()]
        ends = [*breaks.tolist(), len(raw)]
        for cutting, start, end in zip(plain, starts, ends, strict=True):
            self._known[cutting] = raw[start:end]


def run_pattern(tokenizer: Tokenizer) -> re.Pattern[str]:
    r"""Return what matches the runs into which any text may be cut, one after the other.

    A run is letters, marks or some digits, with the spaces before it; or spaces alone; or a
    newline. Marks are ASCII punctuation and every character that some piece holds beside a mark:
    in a model that merges letters with marks letters become marks, and the cuts are at spaces and
    newlines only. Expects :attr:`Tokenizer.splits_at_spaces`.
    """
    bodies = [piece.lstrip(SPACE) for piece in tokenizer.merged_pieces]
    digits = set(string.digits)
    digits_stand_alone = not any(digits & set(body) for body in bodies if len(body) > 1)
    marks = set(string.punctuation) | (set() if digits_stand_alone else digits)
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
