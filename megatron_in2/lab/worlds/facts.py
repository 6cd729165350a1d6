"""A small world of facts and filler: contexts, questions about them, and rows to copy.

A context is shuffled sentences: facts ``fact of ENTITY ATTRIBUTE VALUE .`` and fillers of random
words. A context has three attributes and about three facts for each entity, so that a model must
match both. Each pair of entity and attribute occurs once, so ``question of ENTITY ATTRIBUTE`` has
one answer. Every word is one token: all lengths are in tokens.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.base import (
    Dataset,
    Measure,
    Record,
    SmallWorld,
    require_positive,
)

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
_DRAWS = 1_000  # of a context before a dataset counts as impossible


@dataclass(frozen=True)
class FactDataset(Dataset):
    """Contexts with questions, or rows of repeated words.

    Args:
        tokens: length of the longest sample, control tokens included.
        shortest: lengths are drawn uniformly from this to ``tokens``; 0 makes all that long.
        facts: facts in the longest context, proportionally fewer in shorter ones; 0 makes rows of
            repeated words instead.
        questions: largest number of questions after a context.
        ends: share of the context, at each end, whose facts are asked about; 0.5 asks about all.
        middle: share of the questions that ask about a fact between the ends instead; every
            sample then has exactly ``questions`` questions.
    """

    tokens: int = 512
    shortest: int = 0
    facts: int = 0
    questions: int = 0
    ends: float = 0.5
    middle: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "tokens")
        if not 0 <= self.shortest <= self.tokens <= self.row_tokens:
            raise InputError(
                f"shortest={self.shortest}, tokens={self.tokens}, row_tokens={self.row_tokens}: "
                "each must be at most the next"
            )
        if min(self.facts, self.questions) < 0 or bool(self.facts) != bool(self.questions):
            raise InputError(
                f"facts={self.facts}, questions={self.questions}: give both, or none for rows of "
                "repeated words"
            )
        needed = self.facts * FACT_TOKENS + self.questions * QUESTION_TOKENS + 1
        if self.facts and needed > self.tokens:
            raise InputError(
                f"tokens={self.tokens}: {self.facts} facts and {self.questions} questions take "
                f"{needed} tokens"
            )
        if not 0 < self.ends <= 0.5:
            raise InputError(f"ends={self.ends}: must be above 0 and at most 0.5")
        if self.middle is not None and not (0 <= self.middle <= 1 and self.ends < 0.5):
            raise InputError(
                f"middle={self.middle} with ends={self.ends}: a share from 0 to 1, and ends below "
                "0.5, so that there is a middle"
            )


@dataclass(frozen=True)
class FactMeasure(Measure):
    """In each context one question for each of ``bins`` equal parts: about the fact nearest to it.

    Args:
        tokens: length of prompt and answer, control tokens included.
        facts: facts in a context.
        bins: parts of a context.
    """

    tokens: int = 512
    facts: int = 40
    bins: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "tokens", "facts", "bins")
        needed = self.facts * FACT_TOKENS + QUESTION_TOKENS + 1
        if needed > self.tokens:
            raise InputError(f"tokens={self.tokens}: {self.facts} facts take {needed} tokens")

    @property
    def groups(self) -> tuple[str, ...]:
        edges = [100 * edge / self.bins for edge in range(self.bins + 1)]
        return tuple(f"{low:.0f}-{high:.0f} %" for low, high in itertools.pairwise(edges))

    @property
    def axis(self) -> str:
        return "evidence position in the context (%)"


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
    """A context of ``tokens`` tokens; ``facts`` in the order of the text."""

    text: str
    tokens: int
    facts: tuple[Fact, ...]

    def near_the_ends(self, share: float) -> list[Fact]:
        """Return the facts that start in the first or last ``share`` of the context."""
        edge = share * self.tokens
        return [fact for fact in self.facts if not edge <= fact.start < self.tokens - edge]

    def nearest(self, place: float) -> Fact:
        """Return the fact that starts nearest to a position from 0 (start) to 1 (end)."""
        return min(self.facts, key=lambda fact: abs(fact.start - place * self.tokens))


def make_context(chance: random.Random, tokens: int, facts: int) -> Context:
    """Draw a context of exactly ``tokens`` tokens with ``facts`` facts.

    Raises:
        ValueError: the facts do not fit.
    """
    rest = tokens - facts * FACT_TOKENS
    if rest < 0:
        raise ValueError(f"{facts} facts take {facts * FACT_TOKENS} tokens, not {tokens}")
    entities = chance.sample(ENTITIES, -(-facts // FACTS_AN_ENTITY))
    attributes = chance.sample(ATTRIBUTES, FACTS_AN_ENTITY)
    pairs = list(itertools.product(entities, attributes))
    sentences: list[tuple[str, ...]] = [
        ("fact", "of", entity, attribute, chance.choice(VALUES), ".")
        for entity, attribute in chance.sample(pairs, facts)
    ]
    while rest:
        length = min(rest, 1 + chance.randint(*FILLER_WORDS))
        sentences.append((*chance.choices(FILLERS, k=length - 1), "."))
        rest -= length
    chance.shuffle(sentences)
    starts = itertools.accumulate((len(sentence) for sentence in sentences), initial=0)
    found = tuple(
        Fact(sentence[2], sentence[3], sentence[4], start)
        for sentence, start in zip(sentences, starts, strict=False)
        if sentence[0] == "fact"
    )
    return Context(" ".join(itertools.chain.from_iterable(sentences)), tokens, found)


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


def fact_sample(chance: random.Random, dataset: FactDataset) -> Record:
    """Draw one sample in parts form; draw the context again while it has too few facts to ask."""
    tokens = chance.randint(dataset.shortest or dataset.tokens, dataset.tokens)
    if not dataset.facts:
        return {"parts": copy_parts(chance, tokens)}
    facts = round(dataset.facts * tokens / dataset.tokens)
    questions = min(dataset.questions, facts)
    question_tokens = questions * QUESTION_TOKENS - 1  # the last full stop is not written
    for _ in range(_DRAWS):
        context = make_context(chance, tokens - CONTROL_TOKENS - question_tokens, facts)
        if asked := _asked(chance, context, dataset, questions):
            return {"parts": question_parts(context, asked)}
    raise InputError(
        f"none of {_DRAWS} contexts of {tokens} tokens has enough facts to ask {questions} "
        f"questions with ends={dataset.ends}: give more facts, fewer questions or wider ends"
    )


def _asked(
    chance: random.Random, context: Context, dataset: FactDataset, questions: int
) -> list[Fact]:
    """Return the facts that a sample asks about; none where the context has not enough."""
    near = context.near_the_ends(dataset.ends)
    if dataset.middle is None:
        return chance.sample(near, min(questions, len(near)))
    between = [fact for fact in context.facts if fact not in near]
    # Whatever the share is, so that all shares have contexts of the same kind.
    if min(len(near), len(between)) < questions:
        return []
    of_middle = sum(chance.random() < dataset.middle for _ in range(questions))
    asked = [*chance.sample(between, of_middle), *chance.sample(near, questions - of_middle)]
    return chance.sample(asked, questions)


def fact_probes(chance: random.Random, measure: FactMeasure) -> Iterator[Record]:
    """Yield one context's probes in the published form; ``position_id`` is the bin."""
    tokens = measure.tokens - CONTROL_TOKENS - QUESTION_TOKENS + 1
    context = make_context(chance, tokens, measure.facts)
    for position in range(measure.bins):
        fact = context.nearest((position + 0.5) / measure.bins)
        yield {
            "prompt": f"{context.text} {fact.question}",
            "completion": fact.value,
            "position_id": position,
            "context_tokens": measure.tokens,
        }


FACT_WORLD = SmallWorld(WORDS, FactDataset, FactMeasure, fact_sample, fact_probes)
