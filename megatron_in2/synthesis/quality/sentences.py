"""Sentences, and the content words of a text: without function words, endings cut off."""

import re
from functools import cache
from pathlib import Path

from megatron_in2.synthesis.quality.words import is_character, words

_SENTENCE = re.compile(
    r"[^\n]+?(?:[.!?…؟۔।॥][\"'”’»)\]]*(?=\s|$)|[。！？][”’」』）]*|(?=\n)|$)", re.MULTILINE
)
# Titles and initials end in a full stop that ends no sentence.
_NO_END = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Gen|Col|Sen|Rep|Gov|No|vs|etc|Inc|Co|Ltd)|\b[A-Z])\.$"
)
_ENDINGS = (
    "ations",
    "ation",
    "ments",
    "ment",
    "ingly",
    "ings",
    "ing",
    "edly",
    "ed",
    "es",
    "ly",
    "s",
    "e",
)
_MAX_STEM = 7  # deliver, deliveries
_MIN_STEM = 3


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, in order."""
    found: list[str] = []
    open_end = False
    for match in _SENTENCE.finditer(text):
        sentence = match[0].strip()
        if open_end and found:
            found[-1] = f"{found[-1]} {sentence}"
        elif sentence:
            found.append(sentence)
        open_end = bool(_NO_END.search(sentence))
    return found


def content_words(text: str) -> list[str]:
    """Return the words of a text that say what it is about, as stems, in order.

    In languages without spaces, each two characters in a row that are no function words.
    """
    found, stems = words(text), []
    for place, word in enumerate(found):
        if not is_character(word):
            if word not in function_words():
                stems.append(stem(word))
        elif place + 1 < len(found) and is_character(found[place + 1]):
            pair = word + found[place + 1]
            if not set(pair) & function_words():
                stems.append(pair)
    return stems


def stem(word: str) -> str:
    """Cut the ending off an English word, so that its forms are the same: move and moved: mov."""
    if word.endswith(("ies", "ied")) and len(word) > _MIN_STEM + 2:
        return f"{word[:-3]}i"[:_MAX_STEM]
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _MIN_STEM:
            word = word.removesuffix(ending)
            break
    if len(word) > _MIN_STEM and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    if word.endswith("y") and len(word) > _MIN_STEM:
        word = word[:-1] + "i"
    return word[:_MAX_STEM]


@cache
def function_words() -> frozenset[str]:
    """Return the words that carry no content, of English and Chinese."""
    text = Path(__file__).with_name("function_words.txt").read_text(encoding="utf-8")
    return frozenset(text.split())
