"""Tasks of three kinds, each with a strategy of its own, in the world of facts.

All tasks are asked alike, ``question of ENTITY ATTRIBUTE``. What kind a task is of, only the facts
about its entity tell:

    stated  the entity has the attribute               direct: answer VALUE
    alias   it is the same as another that has it      follow: E same F F ATTRIBUTE VALUE answer V
    pair    it is one of a pair, and the larger value  weigh:  E pair F E ATTRIBUTE VALUE
            of the two is asked for                            F ATTRIBUTE VALUE answer VALUE

Every context has entities of all three kinds. Values are numbers, in the order of ``NUMBERS``.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from megatron_in2.lab.worlds import facts
from megatron_in2.lab.worlds.facts import ATTRIBUTES, ENTITIES, VALUES, filler_sentences

KindName = Literal["stated", "alias", "pair"]
KINDS: tuple[KindName, ...] = get_args(KindName)
STRATEGIES: Mapping[KindName, str] = {"stated": "direct", "alias": "follow", "pair": "weigh"}
SAME, PAIR, ANSWER, PLAN = "same", "pair", "answer", "plan"
WORDS = [*facts.WORDS, SAME, PAIR, ANSWER, PLAN, *STRATEGIES.values()]
NUMBERS = VALUES[:20]

_STATED = 4  # entities of a context that have both its attributes
FACTS_TOKENS = (2 * _STATED + 2) * facts.FACT_TOKENS  # and one link of each kind
PROMPT_TOKENS = 2
QUESTION_TOKENS = 4
LONGEST_ANSWER = 11


@dataclass(frozen=True)
class KindTask:
    """One task.

    Args:
        kind: of the task.
        question: its words, the same for all kinds.
        reasoned: the answer by the kind's strategy.
        answer: its last word.
    """

    kind: KindName
    question: str
    reasoned: str
    answer: str

    @property
    def prompt(self) -> str:
        """The prompt that asks for the kind's strategy."""
        return f"{PLAN} {STRATEGIES[self.kind]}"

    @property
    def direct(self) -> str:
        """The answer without reasoning."""
        return f"{ANSWER} {self.answer}"


@dataclass(frozen=True)
class KindContext:
    """A context and a task of each kind about it."""

    text: str
    tasks: Mapping[KindName, KindTask]


def make_kind_context(chance: random.Random, tokens: int) -> KindContext:
    """Draw a context of exactly ``tokens`` tokens, with tasks of all kinds.

    Raises:
        ValueError: the facts do not fit.
    """
    if tokens < FACTS_TOKENS:
        raise ValueError(f"the facts take {FACTS_TOKENS} tokens, not {tokens}")
    alias, *stated = chance.sample(ENTITIES, 1 + _STATED)
    known, meant, first, second = stated
    attributes = chance.sample(ATTRIBUTES, 2)
    values = {(each, name): chance.choice(NUMBERS) for each in stated for name in attributes}
    sentences: list[tuple[str, ...]] = [
        ("fact", "of", *fact, value, ".")
        for fact, value in [*values.items(), ((alias, SAME), meant), ((first, PAIR), second)]
    ]
    sentences += filler_sentences(chance, tokens - FACTS_TOKENS)
    chance.shuffle(sentences)
    name = chance.choice(attributes)
    one, two = values[first, name], values[second, name]
    reasoned: dict[KindName, tuple[str, str, str]] = {
        "stated": (known, "", values[known, name]),
        "alias": (
            alias,
            f"{alias} {SAME} {meant} {meant} {name} {values[meant, name]} ",
            values[meant, name],
        ),
        "pair": (
            first,
            f"{first} {PAIR} {second} {first} {name} {one} {second} {name} {two} ",
            max(one, two, key=NUMBERS.index),
        ),
    }
    tasks = {
        kind: KindTask(kind, f"question of {entity} {name}", f"{steps}{ANSWER} {value}", value)
        for kind, (entity, steps, value) in reasoned.items()
    }
    return KindContext(" ".join(word for sentence in sentences for word in sentence), tasks)


def final_word(reply: str) -> str:
    """Return the word after a reply's last ``answer``; empty where it has none."""
    _, mark, rest = f" {reply} ".rpartition(f" {ANSWER} ")
    return next(iter(rest.split()), "") if mark else ""
