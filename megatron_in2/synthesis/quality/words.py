"""Words in any language, for checks that count or compare them.

A word is a run of letters and digits, in lower case. Chinese, Japanese, Thai, Lao, Khmer and
Burmese put no spaces between words: there each character is a word of its own, and 16 of them
count as much as 10 words (a Chinese word has 1.6 characters on average).
"""

import re

import numpy as np
import numpy.typing as npt
import regex  # type: ignore[import-untyped]

CHARACTERS_PER_WORD = 1.6

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_ASCII_WORD = re.compile(r"[a-z0-9]+")
# Marks belong to the letter before them: vowel signs of Indic scripts and of Thai, accents.
_WORD = regex.compile(rf"(?V1)[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+")
_UNSPACED_CHARACTER = regex.compile(rf"[{_UNSPACED}]")


def words(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    found: list[str] = (_ASCII_WORD if text.isascii() else _WORD).findall(text.lower())
    return found


def is_character(word: str) -> bool:
    """Whether a word of :func:`words` is a character of a language without spaces."""
    return not word.isascii() and _UNSPACED_CHARACTER.match(word) is not None


def has_unspaced(text: str) -> bool:
    """Whether a text holds characters of a language without spaces between words."""
    return not text.isascii() and _UNSPACED_CHARACTER.search(text) is not None


def characters_in(found: list[str]) -> npt.NDArray[np.bool_]:
    """Return which of some words are characters, [words]."""
    if all(map(str.isascii, found)):
        return np.zeros(len(found), np.bool_)
    return np.fromiter(map(is_character, found), np.bool_, len(found))


def as_words(count: int, found: list[str]) -> int:
    """Return how many of these words weigh as much as ``count`` words with spaces between them.

    Args:
        count: a limit in words.
        found: the words of a text; if most are characters, the limit is one for characters.
    """
    mostly_characters = 2 * int(characters_in(found).sum()) > len(found)
    return round(count * CHARACTERS_PER_WORD) if mostly_characters else count


def joined(found: list[str]) -> str:
    """Return words as a text, for messages: characters without spaces between them."""
    text = ""
    for word in found:
        close = text == "" or (is_character(word) and is_character(text[-1]))
        text += word if close else f" {word}"
    return text
