"""A small world of facts and filler: contexts, questions about them, and rows to copy.

A context is shuffled sentences: facts ``fact of ENTITY ATTRIBUTE VALUE .`` and fillers of random
words. Where the other facts are hard fillers for the one that is asked about, a context has three
attributes and about three facts for each entity, so that a model must match both; where they are
random, no two have the same entity. Each pair of entity and attribute occurs once, so
``question of ENTITY ATTRIBUTE`` has one answer. Every word is one token: all lengths are in tokens.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

_SYLLABLES = [a + b for a, b in itertools.product("bdfgklmnprstvz", "aeiou")]
_STRUCTURE = ["fact", "of", ".", "question"]
ATTRIBUTES = [
    *("color", "size", "age", "home", "friend", "song", "tool", "food"),
    *("drink", "game", "tree", "bird", "stone", "river", "road", "wish"),
]


def _made_up(count: int, seed: int, syllables: int) -> list[str]:
    """Return ``count`` different made-up words."""
    chance = random.Random(seed)
    words: set[str] = set()
    while len(words) < count:
        words.add("".join(chance.choices(_SYLLABLES, k=syllables)))
    return sorted(words)


ENTITIES = [word.capitalize() for word in _made_up(40, 1, 2)]
VALUES = _made_up(80, 2, 2)
FILLERS = _made_up(96, 3, 3)
WORDS = [*_STRUCTURE, *ATTRIBUTES, *ENTITIES, *VALUES, *FILLERS]

FILLER_WORDS = (5, 10)  # in one filler sentence, without its full stop
FACTS_AN_ENTITY = 3  # and attributes in a context
FACT_TOKENS = 6
QUESTION_TOKENS = 6  # its answer and full stop included
CONTROL_TOKENS = 2  # begin- and end-of-sequence
FillerName = Literal["hard", "random"]
MOST_FACTS: dict[FillerName, int] = {
    "hard": len(ENTITIES) * FACTS_AN_ENTITY,
    "random": len(ENTITIES),
}


@dataclass(frozen=True)
class Fact:
    """One statement of a context; ``start`` is the index of its first token."""

    entity: str
    attribute: str
    value: str
    start: int

    @property
    def question(self) -> str:
        """The question whose answer is ``value``."""
        return f"question of {self.entity} {self.attribute}"


@dataclass(frozen=True)
class Context:
    """A context of ``tokens`` tokens.

    ``facts`` are in the order of the text; ``twice`` are those that the text states again later.
    """

    text: str
    tokens: int
    facts: tuple[Fact, ...]
    twice: tuple[Fact, ...] = ()

    def near_the_ends(self, share: float) -> list[Fact]:
        """Return the facts that start in the first or last ``share`` of the context."""
        edge = share * self.tokens
        return [fact for fact in self.facts if not edge <= fact.start < self.tokens - edge]

    def nearest(self, place: float) -> Fact:
        """Return the fact that starts nearest to a position from 0 (start) to 1 (end)."""
        return min(self.facts, key=lambda fact: abs(fact.start - place * self.tokens))


def make_context(
    chance: random.Random,
    tokens: int,
    facts: int,
    fillers: FillerName = "hard",
    twice: int = 0,
) -> Context:
    """Draw a context of exactly ``tokens`` tokens with ``facts`` facts, ``twice`` of them repeated.

    Raises:
        ValueError: the facts do not fit.
    """
    rest = tokens - (facts + twice) * FACT_TOKENS
    if rest < 0:
        raise ValueError(f"{facts} facts take {facts * FACT_TOKENS} tokens, not {tokens}")
    sentences: list[tuple[str, ...]] = [
        ("fact", "of", entity, attribute, chance.choice(VALUES), ".")
        for entity, attribute in _pairs(chance, facts, fillers)
    ]
    sentences += sentences[:twice]
    sentences += filler_sentences(chance, rest)
    chance.shuffle(sentences)
    starts = itertools.accumulate((len(sentence) for sentence in sentences), initial=0)
    found: dict[tuple[str, ...], Fact] = {}
    again = []
    for sentence, start in zip(sentences, starts, strict=False):
        if sentence in found:
            again.append(found[sentence])
        elif sentence[0] == "fact":
            found[sentence] = Fact(sentence[2], sentence[3], sentence[4], start)
    text = " ".join(itertools.chain.from_iterable(sentences))
    return Context(text, tokens, tuple(found.values()), tuple(again))


def filler_sentences(chance: random.Random, tokens: int) -> Iterator[tuple[str, ...]]:
    """Yield sentences of random words that have exactly ``tokens`` tokens together."""
    while tokens:
        length = min(tokens, 1 + chance.randint(*FILLER_WORDS))
        yield (*chance.choices(FILLERS, k=length - 1), ".")
        tokens -= length


def _pairs(chance: random.Random, facts: int, fillers: FillerName) -> list[tuple[str, str]]:
    """Draw different pairs of entity and attribute, in random order."""
    if fillers == "random":
        entities = chance.sample(ENTITIES, facts)
        return [(entity, chance.choice(ATTRIBUTES)) for entity in entities]
    entities = chance.sample(ENTITIES, -(-facts // FACTS_AN_ENTITY))
    attributes = chance.sample(ATTRIBUTES, FACTS_AN_ENTITY)
    return chance.sample(list(itertools.product(entities, attributes)), facts)


def question_parts(context: Context, asked: Sequence[Fact]) -> list[dict[str, object]]:
    """Return a sample's parts: the context and the questions; only answers are trained on."""
    parts: list[dict[str, object]] = []
    before = context.text
    for fact in asked:
        parts.append({"text": f"{before} {fact.question}", "learn": False})
        parts.append({"text": fact.value, "learn": True})
        before = "."
    return parts


def copy_parts(chance: random.Random, tokens: int) -> list[dict[str, object]]:
    """Return random words repeated with a period, trained on from the second repetition on.

    Each row has its own period: a fixed one would teach a fixed distance.
    """
    words = tokens - CONTROL_TOKENS
    period = chance.randint(8, words // 2)
    pattern = chance.choices(WORDS, k=period)
    row = list(itertools.islice(itertools.cycle(pattern), words))
    return [
        {"text": " ".join(row[:period]), "learn": False},
        {"text": " ".join(row[period:]), "learn": True},
    ]
