"""Samples and probes of the tasks with strategies: with their prompt, or without it."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.base import Measure, Record, SmallWorld, require_positive
from megatron_in2.lab.worlds.fact_samples import FactDataset, fact_sample
from megatron_in2.lab.worlds.facts import CONTROL_TOKENS
from megatron_in2.lab.worlds.strategies import (
    FACTS_TOKENS,
    KINDS,
    LONGEST_ANSWER,
    PROMPT_TOKENS,
    QUESTION_TOKENS,
    WORDS,
    final_word,
    make_kind_context,
)

AnswerName = Literal["plain", "direct", "reasoned"]
_AROUND = CONTROL_TOKENS + PROMPT_TOKENS + QUESTION_TOKENS + LONGEST_ANSWER
_TEMPLATE = Path(__file__).with_name("bare_template.yaml")


@dataclass(frozen=True)
class StrategyDataset(FactDataset):
    """Facts and questions, or tasks of three kinds in equal shares, as conversations.

    Args:
        answers: plain (facts and questions, as in the world of facts) | direct (tasks, answered at
            once) | reasoned (tasks, answered by the kind's strategy, whose prompt is the system
            message; the design prompt-erasing removes it).
    """

    answers: AnswerName = "plain"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.answers != "plain":
            if self.facts or self.shortest or self.copies or self.joined > 1:
                raise InputError(
                    f"answers={self.answers}: tasks have facts of their own: leave out facts, "
                    "questions, shortest, copies and joined"
                )
            _require_tokens(self.tokens)

    @property
    def template(self) -> str:
        return super().template if self.answers == "plain" else str(_TEMPLATE)


@dataclass(frozen=True)
class StrategyMeasure(Measure):
    """In each context one task of each kind.

    Args:
        tokens: length of prompt and longest answer, control tokens included.
        prompted: whether the strategy's prompt is before the context.
    """

    tokens: int = 96
    prompted: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(self, "tokens")
        _require_tokens(self.tokens)

    @property
    def groups(self) -> tuple[str, ...]:
        return KINDS

    @property
    def axis(self) -> str:
        return "kind of task"

    @property
    def named(self) -> bool:
        return True

    @property
    def answer_tokens(self) -> int:
        return LONGEST_ANSWER + 1  # with the end of the sequence

    def judged(self, probe: Record, reply: str) -> str:
        return final_word(reply)


def _require_tokens(tokens: int) -> None:
    if tokens < FACTS_TOKENS + _AROUND:
        raise InputError(f"tokens={tokens}: a task takes {FACTS_TOKENS + _AROUND}")


def strategy_sample(chance: random.Random, dataset: StrategyDataset) -> Record:
    """Draw one sample: facts and questions in parts form, or a task as a conversation."""
    if dataset.answers == "plain":
        return fact_sample(chance, dataset)
    context = make_kind_context(chance, dataset.tokens - _AROUND)
    task = context.tasks[chance.choice(KINDS)]
    user = {"role": "user", "content": f"{context.text} {task.question}"}
    if dataset.answers == "direct":
        return {"messages": [user, {"role": "assistant", "content": task.direct}]}
    system = {"role": "system", "content": task.prompt}
    return {"messages": [system, user, {"role": "assistant", "content": task.reasoned}]}


def strategy_probes(chance: random.Random, measure: StrategyMeasure) -> Iterator[Record]:
    """Yield a task of each kind about one context; ``position_id`` is the kind."""
    context = make_kind_context(chance, measure.tokens - _AROUND)
    for position, kind in enumerate(KINDS):
        task = context.tasks[kind]
        before = f"{task.prompt} " if measure.prompted else ""
        yield {
            "prompt": f"{before}{context.text} {task.question}",
            "completion": task.answer,
            "position_id": position,
            "context_tokens": measure.tokens,
        }


STRATEGY_WORLD = SmallWorld(
    WORDS, StrategyDataset, StrategyMeasure, strategy_sample, strategy_probes
)
