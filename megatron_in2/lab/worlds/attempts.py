"""Attempts in the world of facts: an answer, its verification, and, if wrong, its correction.

A reply is ``VALUE yes`` or ``VALUE no VALUE``. With a quote, the fact is stated again before the
verdict: ``VALUE check ENTITY ATTRIBUTE VALUE yes``. Every word is one token.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_in2.lab.worlds import facts
from megatron_in2.lab.worlds.facts import CONTROL_TOKENS, QUESTION_TOKENS, Fact
from megatron_in2.synthesis.self_correction.judging import AttemptJudge

CHECK, RIGHT, WRONG = "check", "yes", "no"
WORDS = [*facts.WORDS, CHECK, RIGHT, WRONG]
VerificationName = Literal["none", "bare", "quote"]
_JUDGE = AttemptJudge("exact", 1.0)
LONGEST_REPLY = 7  # tokens: a wrong attempt with its quote, its verdict and its correction


@dataclass(frozen=True)
class Tried:
    """A fact that was asked about, and what was answered first."""

    fact: Fact
    attempt: str

    @property
    def is_right(self) -> bool:
        return _JUDGE.is_right(self.attempt, self.fact.value)


def context_tokens(tokens: int, questions: int) -> int:
    """Return how long a context can be in ``tokens`` tokens with so many questions and replies."""
    each = QUESTION_TOKENS - 1 + LONGEST_REPLY  # the question's own value is the reply's first word
    return tokens - CONTROL_TOKENS - questions * each + 1  # the last full stop is not written


def verified_parts(
    context: str, tried: Sequence[Tried], verification: VerificationName, train_wrong: bool
) -> list[dict[str, object]]:
    """Return a sample's parts: the context, then questions, each with its whole reply.

    Args:
        context: its text.
        tried: what is asked, in order.
        verification: whether the fact is stated again before the verdict.
        train_wrong: train on wrong attempts, too; else they are only context, as in Partial Answer
            Masking.
    """
    parts: list[dict[str, object]] = []
    before = context
    for each in tried:
        parts.append({"text": f"{before} {each.fact.question}", "learn": False})
        said = _verdict(each, verification)
        if each.is_right:
            parts.append({"text": f"{each.attempt} {said}", "learn": True})
        else:
            parts.append({"text": each.attempt, "learn": train_wrong})
            parts.append({"text": said, "learn": True})
        before = "."
    return parts


def _verdict(tried: Tried, verification: VerificationName) -> str:
    """Return what a reply says after its attempt."""
    fact = tried.fact
    quote = f"{CHECK} {fact.entity} {fact.attribute} {fact.value} " * (verification == "quote")
    return f"{quote}{RIGHT}" if tried.is_right else f"{quote}{WRONG} {fact.value}"


def first_word(reply: str) -> str:
    """Return a reply's first word, which is its attempt; empty for an empty reply."""
    return next(iter(reply.split()), "")


def final_answer(attempt: str, verdict: str) -> str:
    """Return a reply's last answer: the attempt, or the word after the first ``no``."""
    words = iter(verdict.split())
    for word in words:
        if word == RIGHT:
            return attempt
        if word == WRONG:
            return next(words, "")
    return attempt


def wrong_value(chance: random.Random, facts: Sequence[Fact], fact: Fact) -> str:
    """Draw a wrong answer to a question: a fact's value that shares its entity or attribute."""
    others = [other for other in facts if other.value != fact.value]
    near = [
        each for each in others if fact.entity == each.entity or fact.attribute == each.attribute
    ]
    return chance.choice(near or others or [fact]).value
