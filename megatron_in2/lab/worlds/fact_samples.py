"""Samples and probes of the world of facts: what a study says of them, how they are drawn."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.base import (
    Dataset,
    Measure,
    Record,
    SmallWorld,
    require_positive,
)
from megatron_in2.lab.worlds.facts import (
    CONTROL_TOKENS,
    FACT_TOKENS,
    MOST_FACTS,
    QUESTION_TOKENS,
    WORDS,
    Context,
    Fact,
    FillerName,
    copy_parts,
    make_context,
    question_parts,
)

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
        fillers: what the other facts of a context are to one: hard (some share its entity, others
            its attribute) | random (none has its entity).
        repeated: every fact that is asked about is stated twice, each time anywhere.
        copies: share of samples that are rows of repeated words instead.
        joined: contexts with their questions that are written as one sample, as in a row in which
            samples see each other.
        ends: share of the context, at each end, whose facts are asked about; 0.5 asks about all.
        middle: share of the questions that ask about a fact between the ends instead; every
            sample then has exactly ``questions`` questions.
    """

    tokens: int = 512
    shortest: int = 0
    facts: int = 0
    questions: int = 0
    fillers: FillerName = "hard"
    repeated: bool = False
    copies: float = 0.0
    joined: int = 1
    ends: float = 0.5
    middle: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "tokens", "joined")
        if not 0 <= self.shortest <= self.tokens <= self.sample_tokens <= self.row_tokens:
            raise InputError(
                f"shortest={self.shortest}, tokens={self.tokens}, {self.joined} joined, "
                f"row_tokens={self.row_tokens}: each length must be at most the next"
            )
        if min(self.facts, self.questions) < 0 or bool(self.facts) != bool(self.questions):
            raise InputError(
                f"facts={self.facts}, questions={self.questions}: give both, or none for rows of "
                "repeated words"
            )
        stated = self.facts + self.questions * self.repeated
        _require_facts(stated, self.fillers, self.tokens, self.questions)
        if not 0 < self.ends <= 0.5:
            raise InputError(f"ends={self.ends}: must be above 0 and at most 0.5")
        if self.middle is not None and not (0 <= self.middle <= 1 and self.ends < 0.5):
            raise InputError(
                f"middle={self.middle} with ends={self.ends}: a share from 0 to 1, and ends below "
                "0.5, so that there is a middle"
            )
        if self.repeated and self.ends < 0.5:
            raise InputError(f"repeated=true with ends={self.ends}: facts are repeated anywhere")
        if not 0 <= self.copies < 1:
            raise InputError(f"copies={self.copies}: must be from 0 to below 1")

    @property
    def sample_tokens(self) -> int:
        """Length of the longest sample, with all contexts that are joined in it."""
        return self.joined * self.tokens


@dataclass(frozen=True)
class FactMeasure(Measure):
    """In each context one question for each of ``bins`` equal parts: about the fact nearest to it.

    Args:
        tokens: length of prompt and answer, control tokens included.
        facts: facts in a context.
        bins: parts of a context.
        fillers: as in a dataset.
    """

    tokens: int = 512
    facts: int = 40
    bins: int = 16
    fillers: FillerName = "hard"

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "tokens", "facts", "bins")
        _require_facts(self.facts, self.fillers, self.tokens, questions=1)

    @property
    def groups(self) -> tuple[str, ...]:
        edges = [100 * edge / self.bins for edge in range(self.bins + 1)]
        return tuple(f"{low:.0f}-{high:.0f} %" for low, high in itertools.pairwise(edges))

    @property
    def axis(self) -> str:
        return "evidence position in the context (%)"


def _require_facts(stated: int, fillers: FillerName, tokens: int, questions: int) -> None:
    """Check that facts and questions fit, and that there are names enough.

    Raises:
        InputError: naming the fields, their values and what they need.
    """
    needed = stated * FACT_TOKENS + questions * QUESTION_TOKENS + 1
    if stated and needed > tokens:
        raise InputError(
            f"tokens={tokens}: {stated} statements and {questions} questions take {needed} tokens"
        )
    if stated > MOST_FACTS[fillers]:
        raise InputError(f"facts={stated} with fillers={fillers}: at most {MOST_FACTS[fillers]}")


def fact_sample(chance: random.Random, dataset: FactDataset) -> Record:
    """Draw one sample in parts form."""
    parts = _context_parts(chance, dataset)
    for _ in range(dataset.joined - 1):
        first, *others = _context_parts(chance, dataset)
        parts += [{**first, "text": f". {first['text']}"}, *others]
    return {"parts": parts}


def _context_parts(chance: random.Random, dataset: FactDataset) -> list[Record]:
    """Draw a context with its questions; draw it again while it has too few facts to ask about."""
    tokens = chance.randint(dataset.shortest or dataset.tokens, dataset.tokens)
    if not dataset.facts or (dataset.copies and chance.random() < dataset.copies):
        return copy_parts(chance, tokens)
    facts = round(dataset.facts * tokens / dataset.tokens)
    questions = min(dataset.questions, facts)
    question_tokens = questions * QUESTION_TOKENS - 1  # the last full stop is not written
    context_tokens = tokens - CONTROL_TOKENS - question_tokens
    twice = questions if dataset.repeated else 0
    for _ in range(_DRAWS):
        context = make_context(chance, context_tokens, facts, dataset.fillers, twice)
        if asked := _asked(chance, context, dataset, questions):
            return question_parts(context, asked)
    raise InputError(
        f"none of {_DRAWS} contexts of {tokens} tokens has enough facts to ask {questions} "
        f"questions with ends={dataset.ends}: give more facts, fewer questions or wider ends"
    )


def _asked(
    chance: random.Random, context: Context, dataset: FactDataset, questions: int
) -> list[Fact]:
    """Return the facts that a sample asks about; none where the context has not enough."""
    if dataset.repeated:
        return list(context.twice)
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
    context = make_context(chance, tokens, measure.facts, measure.fillers)
    for position in range(measure.bins):
        fact = context.nearest((position + 0.5) / measure.bins)
        yield {
            "prompt": f"{context.text} {fact.question}",
            "completion": fact.value,
            "position_id": position,
            "context_tokens": measure.tokens,
        }


FACT_WORLD = SmallWorld(WORDS, FactDataset, FactMeasure, fact_sample, fact_probes)
