"""How much a question gives its evidence away: the content words that both have."""

from collections.abc import Iterable

from megatron_in2.synthesis.quality.names import names_in
from megatron_in2.synthesis.quality.sentences import content_words
from megatron_in2.synthesis.quality.words import words


def shared_words(question: str, evidence: Iterable[str]) -> tuple[str, ...]:
    """Return the words of a question whose content its evidence has, names left out, in order.

    Forms of one word are the same. Numbers are content.

    Args:
        question: the question.
        evidence: its texts.
    """
    texts = list(evidence)
    held = {stem for text in texts for stem in content_words(text)}
    names = {stem for text in texts for name in names_in(text) for stem in content_words(name)}
    found: dict[str, str] = {}
    for stem, form in _content_words_with_forms(question):
        if stem in held and stem not in names:
            found.setdefault(stem, form)
    return tuple(found.values())


def _content_words_with_forms(text: str) -> list[tuple[str, str]]:
    """Return (stem, word as it is written in lower case) of each content word."""
    pairs = []
    for word in words(text):
        stems = content_words(word)
        pairs += [(stem, word) for stem in stems]
    characters = [(stem, stem) for stem in content_words(text) if not stem.isascii()]
    known = {stem for stem, _ in pairs}
    return pairs + [pair for pair in characters if pair[0] not in known]
