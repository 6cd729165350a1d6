"""Samples and probes with attempts: a model's own or made-up ones, verified and corrected."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.attempts import (
    LONGEST_REPLY,
    WORDS,
    Tried,
    VerificationName,
    context_tokens,
    final_answer,
    first_word,
    verified_parts,
    wrong_value,
)
from megatron_in2.lab.worlds.base import AttemptSamples, Record, SmallWorld
from megatron_in2.lab.worlds.fact_samples import FactDataset, FactMeasure, fact_sample
from megatron_in2.lab.worlds.facts import FACT_TOKENS, Fact, make_context

AttemptName = Literal["own", "right", "wrong"]


@dataclass(frozen=True)
class AttemptDataset(FactDataset):
    """Facts and questions, whose answers are attempts with verification and correction.

    Args:
        verification: none (plain answers, as in the world of facts) | bare (a verdict) | quote
            (the fact is stated again, then the verdict).
        attempts_of: the run whose model answers first; made-up attempts where not given.
        asked: questions about each context that the model answers, of which ``questions`` are used.
        wrong: share of wrong attempts in a sample, as far as there are so many.
        train_wrong: train on wrong attempts, too.
    """

    verification: VerificationName = "none"
    attempts_of: str = ""
    asked: int = 0
    wrong: float = 0.5
    train_wrong: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verification == "none":
            if self.attempts_of or self.asked or self.train_wrong:
                raise InputError("verification=none: attempts_of, asked and train_wrong are unused")
            return
        for tokens in range(self.shortest or self.tokens, self.tokens + 1):
            facts, questions = self.asked_at(tokens)
            if not facts or facts * FACT_TOKENS > context_tokens(tokens, questions):
                raise InputError(
                    f"{facts} facts and {questions} questions with attempts do not fit into "
                    f"{tokens} tokens: give fewer of them, but at least one"
                )
        if self.copies or self.repeated or self.joined > 1 or self.ends < 0.5:
            raise InputError("copies, repeated, joined and ends are for verification=none only")
        if not 0 <= self.wrong <= 1:
            raise InputError(f"wrong={self.wrong}: must be from 0 to 1")
        if bool(self.attempts_of) != bool(self.asked) or self.asked not in (
            0,
            *range(self.questions, self.facts + 1),
        ):
            raise InputError(
                f"attempts_of={self.attempts_of!r}, asked={self.asked}: give both or none; asked "
                f"is from questions={self.questions} to facts={self.facts}"
            )

    def asked_at(self, tokens: int) -> tuple[int, int]:
        """Return how many facts and questions a sample of so many tokens has."""
        facts = round(self.facts * tokens / self.tokens)
        return facts, min(self.questions, facts)

    @property
    def drawn_from(self) -> str:
        return self.attempts_of


@dataclass(frozen=True)
class AttemptMeasure(FactMeasure):
    """Probes as in the world of facts, whose replies have a verification.

    Args:
        attempt: own (the model answers, and its first word is judged) | right, wrong (such an
            attempt is given, and what the reply makes of it is judged).
    """

    attempt: AttemptName = "own"

    @property
    def answer_tokens(self) -> int:
        return LONGEST_REPLY + 1  # with the end of the sequence

    def judged(self, probe: Record, reply: str) -> str:
        if self.attempt == "own":
            return first_word(reply)
        return final_answer(str(probe["attempt"]), reply)

    @property
    def corrects(self) -> bool:
        return self.attempt == "own"

    def final(self, reply: str) -> str:
        return final_answer(first_word(reply), reply.partition(" ")[2])


def attempt_sample(chance: random.Random, dataset: AttemptDataset) -> Record:
    """Draw one sample with plain answers, or with made-up attempts."""
    if dataset.verification == "none":
        return fact_sample(chance, dataset)
    tokens = chance.randint(dataset.shortest or dataset.tokens, dataset.tokens)
    facts, questions = dataset.asked_at(tokens)
    context = make_context(chance, context_tokens(tokens, questions), facts, dataset.fillers)
    asked = chance.sample(context.facts, questions)
    tried = [
        Tried(
            fact,
            wrong_value(chance, context.facts, fact)
            if chance.random() < dataset.wrong
            else fact.value,
        )
        for fact in asked
    ]
    return _record(context.text, tried, dataset)


def attempt_questions(chance: random.Random, dataset: AttemptDataset) -> list[Record]:
    """Draw a context and the questions that the model is asked about it, as probes."""
    tokens = context_tokens(dataset.tokens, dataset.questions)
    context = make_context(chance, tokens, dataset.facts, dataset.fillers)
    return [
        {
            "prompt": f"{context.text} {fact.question}",
            "context": context.text,
            "fact": [fact.entity, fact.attribute, fact.value, fact.start],
        }
        for fact in chance.sample(context.facts, dataset.asked)
    ]


def sample_of_attempts(
    chance: random.Random, dataset: AttemptDataset, probes: Sequence[Record], replies: Sequence[str]
) -> Record:
    """Make a sample of the questions about one context and the model's replies to them."""
    tried = [
        Tried(Fact(*probe["fact"]), first_word(reply))
        for probe, reply in zip(probes, replies, strict=True)
        if first_word(reply)
    ]
    wrong = [each for each in tried if not each.is_right]
    right = [each for each in tried if each.is_right]
    wanted = round(dataset.wrong * dataset.questions)
    from_wrong = max(min(wanted, len(wrong)), dataset.questions - len(right))
    chosen = [*wrong[:from_wrong], *right[: dataset.questions - from_wrong]]
    return _record(str(probes[0]["context"]), chance.sample(chosen, len(chosen)), dataset)


def _record(context: str, tried: Sequence[Tried], dataset: AttemptDataset) -> Record:
    return {"parts": verified_parts(context, tried, dataset.verification, dataset.train_wrong)}


def attempt_probes(chance: random.Random, measure: AttemptMeasure) -> Iterator[Record]:
    """Yield one context's probes; with a given attempt, it ends the prompt."""
    tokens = context_tokens(measure.tokens, 1)
    context = make_context(chance, tokens, measure.facts, measure.fillers)
    for position in range(measure.bins):
        fact = context.nearest((position + 0.5) / measure.bins)
        wrong = wrong_value(chance, context.facts, fact)  # drawn always: measures share contexts
        probe = {
            "prompt": f"{context.text} {fact.question}",
            "completion": fact.value,
            "position_id": position,
            "context_tokens": measure.tokens,
        }
        if measure.attempt == "own":
            yield probe
            continue
        attempt = fact.value if measure.attempt == "right" else wrong
        yield {**probe, "prompt": f"{probe['prompt']} {attempt}", "attempt": attempt}


ATTEMPT_WORLD = SmallWorld(
    WORDS,
    AttemptDataset,
    AttemptMeasure,
    attempt_sample,
    attempt_probes,
    AttemptSamples(attempt_questions, sample_of_attempts),
)
