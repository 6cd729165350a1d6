"""An offline question writer: real questions over the text's own sentences, no model, no key.

It asks for a missing word, for the end of a sentence, or for what is stated next; and, across
segments, for the two statements that mention a term. All answers are spans of the text, so it
serves tests, the quickstart and smoke runs; data for a real model wants a language model.
"""

import random
import re
from collections import defaultdict
from typing import Any

from megatron_in2.synthesis.questions.writer import Citation, Draft, Evidence

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'(`])")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*[A-Za-z0-9_]|\d+(?:\.\d+)?")
MIN_WORDS, MAX_WORDS = 8, 48  # a sentence worth asking about
OPENING_WORDS = 5  # of a sentence, quoted to say which one is meant
MIN_TERM_CHARACTERS = 5


class ExtractiveWriter:
    """Deterministic writer: the choice depends on (seed, key) and the text alone."""

    window = 64
    is_paid = False
    gives_quotes = True

    def __init__(self, seed: int) -> None:
        self._seed = seed

    async def write(self, evidence: Evidence) -> Draft:
        if evidence.has_pieces:
            draft = self.integration(list(evidence.texts), evidence.id)
        else:
            draft = self.fine_grained(evidence.texts[0], evidence.id)
        return draft or Draft(problem="nothing to ask")

    async def answer_from_memory(self, question: str) -> str | None:
        """Know nothing: this writer has only the text before it."""
        return None

    async def reword(self, evidence: Evidence, draft: Draft, avoided: tuple[str, ...]) -> Draft:
        """Leave the question as it is: this writer knows no other words."""
        return draft

    async def is_right(self, draft: Draft, guess: str) -> bool:
        return guess == draft.answer

    async def supports(self, evidence: Evidence, draft: Draft) -> bool:
        """Whether the answer, or everything it quotes, occurs in the evidence word for word."""
        texts = [" ".join(text.split()) for text in evidence.texts]
        if draft.citations:
            return all(citation.quote in texts[citation.piece] for citation in draft.citations)
        return any(draft.answer in text for text in texts)

    def cost(self) -> float | None:
        return None

    def used_cost(self) -> float | None:
        return None

    def calls(self) -> dict[str, Any] | None:
        return None

    def decisions(self, conditions: str) -> None:
        """Keep nothing: asking again costs nothing."""

    def stop(self) -> None:
        """Nothing is ever under way."""

    async def close(self) -> None:
        """Nothing is open."""

    def fine_grained(self, text: str, key: str) -> Draft | None:
        """Ask about one sentence of the text."""
        sentences = _sentences(text)
        asked = [i for i, sentence in enumerate(sentences) if _is_askable(sentence, text)]
        if not asked:
            return None
        chance = random.Random(f"{self._seed}/{key}")
        index = chance.choice(asked)
        forms = [_missing_word, _sentence_end]
        if index + 1 in asked:
            return chance.choice([*forms, _next_statement])(sentences, index, chance)
        return chance.choice(forms)(sentences, index, chance)

    def integration(self, texts: list[str], key: str) -> Draft | None:
        """Ask for two statements about a term, each from a different text."""
        mentions: dict[str, dict[int, str]] = defaultdict(dict)
        for place, text in enumerate(texts):
            for sentence in _sentences(text):
                if _is_askable(sentence, text):
                    for term in _terms(sentence):
                        mentions[term].setdefault(place, sentence)
        # The rarest shared terms are the most specific ones.
        shared = [(len(found), term) for term, found in mentions.items() if len(found) > 1]
        if not shared:
            return None
        rarest = min(shared)[0]
        chance = random.Random(f"{self._seed}/{key}")
        term = chance.choice(sorted(term for count, term in shared if count == rarest))
        (place, first), (other, second) = list(mentions[term].items())[:2]
        if first == second:
            return None
        return Draft(
            question=f'Which two statements, made in different places, mention "{term}"?',
            answer=f"First: {first} Second: {second}",
            citations=(Citation(place, first), Citation(other, second)),
        )


def _missing_word(sentences: list[str], index: int, chance: random.Random) -> Draft:
    sentence = sentences[index]
    word = max(_terms(sentence), key=lambda term: (len(term), term))
    blanked = sentence.replace(word, "____")
    return Draft(question=f'Which term is left out of this statement: "{blanked}"', answer=word)


def _sentence_end(sentences: list[str], index: int, chance: random.Random) -> Draft:
    words = sentences[index].split(" ")
    opening, end = " ".join(words[:OPENING_WORDS]), " ".join(words[OPENING_WORDS:])
    return Draft(question=f'How does the sentence go on that begins "{opening}"?', answer=end)


def _next_statement(sentences: list[str], index: int, chance: random.Random) -> Draft:
    return Draft(
        question=f'What is stated right after "{sentences[index]}"?', answer=sentences[index + 1]
    )


def _sentences(text: str) -> list[str]:
    flat = re.sub(r"\s+", " ", text)
    return [sentence.strip() for sentence in _SENTENCE_END.split(flat)]


def _is_askable(sentence: str, text: str) -> bool:
    words = sentence.split(" ")
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not sentence.endswith((".", "!", "?")):
        return False
    letters = sum(character.isalpha() or character == " " for character in sentence)
    return letters >= 0.75 * len(sentence) and bool(_terms(sentence))


def _terms(sentence: str) -> list[str]:
    return [word for word in _WORD.findall(sentence) if len(word) >= MIN_TERM_CHARACTERS]
