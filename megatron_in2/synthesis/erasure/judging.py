"""Judges final answers: each kind of task by a rule of its own, or by a model."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import get_args

from megatron_in2.synthesis.erasure.config import ErasureConfig
from megatron_in2.synthesis.self_correction.config import JudgeName
from megatron_in2.synthesis.self_correction.judging import AttemptJudge, Judge, Parted, Verdicts
from megatron_in2.synthesis.self_correction.tasks import Task


class KindJudges:
    """Sends each answer to the judge of its task's kind.

    Args:
        config: which judge each kind has.
        model: the judge ``model``, where one is needed.
    """

    def __init__(self, config: ErasureConfig, model: Judge | None) -> None:
        self._config = config
        self._model = model
        self._rules: dict[JudgeName, AttemptJudge] = {
            name: AttemptJudge(name, config.least_f1)
            for name in get_args(JudgeName)
            if name != "model"
        }

    def problem(self, task: Task) -> str | None:
        """Return why answers cannot be judged by a task's own answer, or None."""
        rule = self._rule(task)
        return None if rule is None else rule.problem(task.reference)

    def verdicts(self, items: Iterable[Parted]) -> Iterator[tuple[Parted, Verdicts]]:
        """Yield each item with the verdicts on its texts, in order."""
        items, again = itertools.tee(items)
        for each, (_, verdicts) in zip(items, self._by_model(again), strict=True):
            rule = self._rule(each.task)
            if rule is not None:
                ((_, verdicts),) = rule.verdicts([each])
            yield each, verdicts

    def _by_model(self, items: Iterable[Parted]) -> Iterator[tuple[Parted, Verdicts]]:
        """Yield the model's verdicts; none on items that a rule judges: it is not asked there."""
        if self._model is None:
            return ((each, {}) for each in items)
        return self._model.verdicts(
            replace(each, replies=()) if self._rule(each.task) else each for each in items
        )

    def _rule(self, task: Task) -> AttemptJudge | None:
        """Return the rule for a task's kind; None where a model judges."""
        return self._rules.get(self._config.judge_of(task.sample.kind))
