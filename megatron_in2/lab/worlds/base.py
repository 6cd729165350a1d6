"""What every small world offers: words, samples to train on, and probes."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from megatron_in2.data.packing.encoding.designs import DesignName
from megatron_in2.errors import InputError
from megatron_in2.templates.load import BASE

Record = dict[str, Any]  # a sample, or a probe, as a line of JSON


@dataclass(frozen=True)
class Dataset:
    """The samples of one training dataset; each world adds what its own are made of.

    Args:
        samples: number of samples.
        row_tokens: length of a packed row.
        design: which parts of a sample are trained on.
    """

    samples: int
    row_tokens: int
    design: DesignName = "answer"

    def __post_init__(self) -> None:
        require_positive(self, "samples", "row_tokens")

    @property
    def drawn_from(self) -> str:
        """The run whose model answers the questions of these samples first; empty for none."""
        return ""

    @property
    def template(self) -> str:
        """How samples are written, as ``--template`` takes it; parts are written as they are."""
        return BASE


@dataclass(frozen=True)
class Measure:
    """One set of probes, the same for all arms of a seed; each world adds what its own ask.

    Args:
        title: what is measured, for tables and figures.
        contexts: contexts of a seed, which is the number of probes in a group.
    """

    title: str
    contexts: int = 100

    def __post_init__(self) -> None:
        require_positive(self, "contexts")

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of probes, in the order of a probe's ``position_id``."""
        raise NotImplementedError

    @property
    def axis(self) -> str:
        """What the groups are, for the axis of a figure."""
        raise NotImplementedError

    @property
    def named(self) -> bool:
        """Whether groups are names, each with a result of its own, not places on an axis."""
        return False

    @property
    def answer_tokens(self) -> int:
        """Length of the longest answer, in tokens."""
        return 1

    def judged(self, probe: Record, reply: str) -> str:
        """Return the part of a reply that is judged by the probe's ``completion``."""
        return reply

    @property
    def corrects(self) -> bool:
        """Whether a reply may correct itself, so that its first and final answer can differ."""
        return False

    def final(self, reply: str) -> str:
        """Return the answer with which a reply ends."""
        return reply


@dataclass(frozen=True)
class AttemptSamples:
    """How samples are made of a model's own attempts.

    Args:
        questions: draws a context, and returns the probes that ask about it.
        sample: makes one sample of these probes and a reply to each, without its id.
    """

    questions: Callable[[random.Random, Any], list[Record]]
    sample: Callable[[random.Random, Any, Sequence[Record], Sequence[str]], Record]


@dataclass(frozen=True)
class SmallWorld:
    """One world.

    Args:
        words: all its words; each is one token.
        dataset: what a study may say of a dataset.
        measure: what a study may say of a set of probes.
        sample: draws one sample, without its id.
        probes: draws the probes of one context, one for each group.
        attempts: makes the samples of datasets that are drawn from a run.
    """

    words: Sequence[str]
    dataset: type[Dataset]
    measure: type[Measure]
    sample: Callable[[random.Random, Any], Record]
    probes: Callable[[random.Random, Any], Iterator[Record]]
    attempts: AttemptSamples | None = None


def require_positive(config: object, *names: str) -> None:
    """Check that counts are 1 or more.

    Raises:
        InputError: naming the field and its value.
    """
    for name in names:
        if (value := getattr(config, name)) < 1:
            raise InputError(f"{name}={value}: must be 1 or more")
