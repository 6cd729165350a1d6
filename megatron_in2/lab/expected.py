"""What came of the expected directions: differences between arms with bootstrap intervals."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from megatron_in2.evaluation.probing.bootstrap import REPLICATES, interval
from megatron_in2.lab.scores import Key, MeasureScores
from megatron_in2.lab.study import Comparison, Study, ValueName

Answer = Literal["holds", "does not hold", "open"]
_SEED = 20240425  # any fixed one: the same scores give the same intervals
_Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """One comparison in one panel.

    Attributes:
        comparison: what was expected.
        panel: where.
        first, second: values of the two arms over all seeds.
        low, high: 95 % bootstrap interval of ``first - second``: contexts are resampled within each
            seed, the same ones for both arms.
        seeds: in how many seeds the difference alone agrees with the expectation.
        answer: whether the whole interval agrees, disagrees, or neither.
    """

    comparison: Comparison
    panel: str
    first: float
    second: float
    low: float
    high: float
    seeds: int
    answer: Answer


def compare_all(
    study: Study, scores: Mapping[str, MeasureScores], panels: tuple[str, ...]
) -> list[Compared]:
    """Return what came of every expected direction whose two arms have run."""
    found = []
    for comparison in study.text.expected:
        right = scores[comparison.measure].right
        for panel in [comparison.panel] if comparison.panel else panels:
            if {(panel, comparison.first), (panel, comparison.second)} <= set(right):
                found.append(_compare(comparison, panel, right))
    return found


def _compare(comparison: Comparison, panel: str, right: Mapping[Key, _Values]) -> Compared:
    first, second = right[panel, comparison.first], right[panel, comparison.second]
    value = comparison.value
    difference = value_of(resampled(first), value) - value_of(resampled(second), value)
    low, high = interval(difference)
    apart = [
        float(value_of(one.mean(axis=0), value) - value_of(other.mean(axis=0), value))
        for one, other in zip(first, second, strict=True)
    ]
    return Compared(
        comparison=comparison,
        panel=panel,
        first=float(value_of(first.mean(axis=(0, 1)), value)),
        second=float(value_of(second.mean(axis=(0, 1)), value)),
        low=low,
        high=high,
        seeds=sum(_answer(comparison, each, each) == "holds" for each in apart),
        answer=_answer(comparison, low, high),
    )


def resampled(right: _Values) -> _Values:
    """Return the groups' means with contexts drawn again within each seed.

    Args:
        right: scores of shape (seeds, contexts, groups).

    Returns:
        Means of shape (REPLICATES, groups). Every call draws the same contexts, so that
        differences between arms are of pairs.
    """
    seeds, contexts, _ = right.shape
    chance = np.random.default_rng(_SEED)
    counts = chance.multinomial(contexts, np.full(contexts, 1 / contexts), (REPLICATES, seeds))
    means: _Values = np.einsum("rsc,scg->rg", counts / (seeds * contexts), right)
    return means


def value_of(means: _Values, value: ValueName) -> _Values:
    """Reduce the groups, the last axis, to their mean or their smallest value."""
    reduced: _Values = means.mean(axis=-1) if value == "mean" else means.min(axis=-1)
    return reduced


def _answer(comparison: Comparison, low: float, high: float) -> Answer:
    by = comparison.by
    if comparison.relation == "above":
        return "holds" if low > by else "does not hold" if high <= by else "open"
    if -by < low and high < by:
        return "holds"
    return "does not hold" if low >= by or high <= -by else "open"
