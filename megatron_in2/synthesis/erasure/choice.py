"""Which strategy each kind of task gets: chosen on the pilot, kept in a file that users edit."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file, read_yaml
from megatron_in2.synthesis.erasure.strategies import Strategy
from megatron_in2.synthesis.erasure.trials import Trial

Choice = Mapping[str, Strategy | None]  # by the kind of task; None: its samples stay as they are

_HEADER = """\
# The strategy of each kind of task, as the pilot found it. You may edit it: the run obeys it.
# null leaves the samples of a kind as they are; no teacher is asked.
"""


@dataclass
class StrategyScore:
    """How one strategy did on one kind of task.

    Args:
        right: answers that are right and can be used.
        tried: tasks of the kind in the pilot, those without a question included.
        asked: questions to the teacher.
        cost: US dollars of all replies.
        tokens: of all replies.
        problems: why the others were not used, with counts.
    """

    right: int = 0
    tried: int = 0
    asked: int = 0
    cost: float = 0.0
    tokens: int = 0
    problems: Counter[str] = field(default_factory=Counter)

    def count(self, trial: Trial) -> None:
        """Count one trial."""
        self.tried += 1
        self.asked += trial.is_asked
        self.cost += trial.cost
        self.tokens += trial.tokens
        if trial.problem is None:
            self.right += 1
        else:
            self.problems[trial.problem] += 1

    @property
    def correctness(self) -> float:
        """Share of the tasks with a right answer."""
        return self.right / self.tried if self.tried else 0.0

    def values(self) -> dict[str, Any]:
        """Return the score as JSON values."""
        return {
            "right": self.right,
            "tried": self.tried,
            "asked": self.asked,
            "correctness": self.correctness,
            "cost": self.cost,
            "answer_tokens": self.tokens,
            "not_used": dict(sorted(self.problems.items())),
        }


Scores = dict[str, dict[str, StrategyScore]]  # by kind, then by strategy


def count_trial(scores: Scores, trial: Trial) -> None:
    """Count the trial of a strategy under its kind of task, which ``scores`` has."""
    assert trial.plan.strategy is not None
    of_kind = scores[trial.plan.task.sample.kind]
    of_kind.setdefault(trial.plan.strategy.name, StrategyScore()).count(trial)


def best_strategy(scores: Mapping[str, StrategyScore]) -> str | None:
    """Return the strategy with the most right answers; None where no answer was right.

    Of several with as many, the one whose answers cost least; where they cost nothing, the one
    with the fewest tokens; then the first.
    """
    if not scores:
        return None
    name = min(
        scores, key=lambda each: (-scores[each].right, scores[each].cost, scores[each].tokens)
    )
    return name if scores[name].right else None


def write_choice(path: Path, scores: Scores) -> dict[str, str | None]:
    """Write the best strategy of each kind, with its figures as a comment; return them."""
    choice = {kind: best_strategy(of_kind) for kind, of_kind in sorted(scores.items())}
    with atomic_file(path) as stream:
        stream.write(_HEADER)
        for kind, name in choice.items():
            line = yaml.safe_dump({kind: name}, allow_unicode=True, width=10**6).strip()
            comment = (
                "no answer was right" if scores[kind] else "no sample can be answered and judged"
            )
            if name is not None:
                score = scores[kind][name]
                each = f"${score.cost / score.asked:.5f}"
                comment = f"{score.right} of {score.tried} right, {each} an answer"
            stream.write(f"{line}  # {comment}\n")
    return choice


def read_choice(path: Path, strategies: Mapping[str, Strategy], kinds: Iterable[str]) -> Choice:
    """Read a choice.

    Args:
        path: the file.
        strategies: all there are, by name.
        kinds: of the samples.

    Returns:
        The choice for these kinds; others in the file play no part.

    Raises:
        InputError: there is no such file, it names no strategy that there is, or lacks a kind.
    """
    if not path.is_file():
        raise InputError(
            f"{path} does not exist: let strategies be tried first, with --pilot 50, or name a "
            "file with --choice"
        )
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: give one line KIND: STRATEGY for each kind of task")
    for kind, name in values.items():
        if name is not None and not (isinstance(name, str) and name in strategies):
            raise InputError(
                f"{path}: field {kind!r}: no strategy {name!r:.60}: use {', '.join(strategies)} "
                "or null"
            )
    wanted = sorted(set(kinds))
    if missing := [kind for kind in wanted if kind not in values]:
        raise InputError(
            f"{path} has no strategy for {', '.join(map(repr, missing))}: add a line KIND: "
            f"STRATEGY ({', '.join(strategies)}, or null), or repeat --pilot"
        )
    names = {kind: values[kind] for kind in wanted}
    return {kind: None if name is None else strategies[name] for kind, name in names.items()}
