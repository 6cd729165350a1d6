"""Two steps: strategies are tried on a pilot, and all tasks are answered by those chosen."""

import heapq
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file, write_json
from megatron_in2.progress import progress_bar
from megatron_in2.records import id_hash
from megatron_in2.synthesis.erasure.choice import (
    Choice,
    Scores,
    count_trial,
    write_choice,
)
from megatron_in2.synthesis.erasure.samples import erased_record
from megatron_in2.synthesis.erasure.strategies import Strategy
from megatron_in2.synthesis.erasure.trials import Plan, Trial, Trials
from megatron_in2.synthesis.pipeline import only_run
from megatron_in2.synthesis.rejects import Rejects, listed_rejects
from megatron_in2.synthesis.self_correction.attempts_file import Tasks
from megatron_in2.synthesis.self_correction.samples import sample_line
from megatron_in2.synthesis.self_correction.tasks import Task


@dataclass(frozen=True)
class ErasurePilot:
    """What a pilot found: scores by kind and strategy, and the choice that it wrote."""

    scores: Scores
    choice: Mapping[str, str | None]
    path: Path


def choice_path(output: Path) -> Path:
    """Return where the choice for an output is kept, if no other file is named."""
    return output.with_name(f"{output.name}.choice.yaml")


def try_strategies(
    trials: Trials,
    strategies: Mapping[str, Strategy],
    tasks: Tasks,
    output: Path,
    count: int,
    seed: int,
    path: Path,
) -> ErasurePilot:
    """Try every strategy on some tasks of each kind, and write which one each kind gets.

    Writes the choice to ``path``; ``OUTPUT.pilot.jsonl`` has every answer, ``OUTPUT.pilot.json``
    the scores.

    Args:
        trials: asks and judges.
        strategies: by name.
        tasks: reads the samples anew.
        output: of the whole run.
        count: tasks of each kind.
        seed: of the draw.
        path: the choice, written.

    Raises:
        InputError: no sample is of use, or the teacher cannot be asked.
    """
    with only_run(output):
        drawn = _drawn(trials, tasks(), count, seed)
        scores: Scores = {kind: {} for kind in sorted(drawn)}
        plans = [
            Plan(task, strategy)
            for of_kind in drawn.values()
            for task in of_kind
            for strategy in strategies.values()
        ]
        with atomic_file(output.with_name(f"{output.name}.pilot.jsonl")) as stream:
            for trial in progress_bar(
                trials.of(plans), desc="pilot", unit=" answers", total=len(plans)
            ):
                count_trial(scores, trial)
                line = json.dumps(_pilot_line(trial), ensure_ascii=False)
                stream.write(line.encode("utf-8", "backslashreplace").decode() + "\n")
        choice = write_choice(path, scores)
        found = {
            kind: {
                "choice": choice[kind],
                "strategies": {name: each.values() for name, each in of_kind.items()},
            }
            for kind, of_kind in scores.items()
        }
        write_json(output.with_name(f"{output.name}.pilot.json"), {"kinds": found})
    return ErasurePilot(scores, choice, path)


def make_erased_samples(
    trials: Trials, choice: Choice, tasks: Tasks, output: Path, total: int
) -> dict[str, Any]:
    """Have all tasks answered by their kinds' strategies, and write the samples.

    Writes ``output`` and, with the same name plus a suffix, ``.rejects.jsonl`` (every answer that
    is not used) and ``.report.json``. Equal samples, choice and answers give equal bytes.

    Args:
        trials: asks and judges.
        choice: has every kind.
        tasks: reads the samples anew.
        output: JSON lines.
        total: how many samples there are.

    Returns:
        The report as JSON values.

    Raises:
        InputError: the teacher cannot be asked, or no answer was right.
    """
    with only_run(output), listed_rejects(output) as rejects:
        scores: Scores = {kind: {} for kind in choice}
        made: Counter[str] = Counter()
        plans = (Plan(task, choice[task.sample.kind]) for task in tasks())
        with atomic_file(output) as stream:
            for trial in progress_bar(
                trials.of(plans), desc="answers", unit=" samples", total=total
            ):
                record = _record(trial, scores, rejects)
                if record is not None:
                    made["erased" if "strategy" in record else "as it was"] += 1
                    stream.write(sample_line(record, trial.plan.task, output))
            if not made:
                raise InputError(
                    f"no sample is left of {total}: "
                    + ", ".join(f"{count:,} {why}" for why, count in rejects.counts.most_common())
                    + f"; {output.name}.rejects.jsonl lists them"
                )
        report = _report(scores, made, rejects.counts)
        write_json(output.with_name(f"{output.name}.report.json"), report)
    return report


def _drawn(trials: Trials, tasks: Iterable[Task], count: int, seed: int) -> dict[str, list[Task]]:
    """Draw tasks of each kind that can be answered and judged; the kinds ascend."""
    kept: dict[str, list[tuple[int, int, Task]]] = {}
    for place, task in enumerate(progress_bar(tasks, desc="samples", unit=" samples")):
        heap = kept.setdefault(task.sample.kind, [])
        rank = -id_hash(f"{seed}/{task.sample.id}")
        if (len(heap) == count and rank <= heap[0][0]) or trials.problem(task) is not None:
            continue
        change = heapq.heappush if len(heap) < count else heapq.heapreplace
        change(heap, (rank, place, task))
    if not any(kept.values()):
        raise InputError(
            "--samples: no sample can be answered by a teacher and judged: texts need evidence "
            "beside their context, and answers that --judge can read"
        )
    return {kind: [task for _, _, task in sorted(kept[kind])] for kind in sorted(kept)}


def _pilot_line(trial: Trial) -> dict[str, Any]:
    assert trial.plan.strategy is not None
    sample = trial.plan.task.sample
    return {
        "id": sample.id,
        "kind": sample.kind,
        "strategy": trial.plan.strategy.name,
        "right": trial.problem is None,
        "problem": trial.problem,
        "reference": trial.plan.task.reference,
        "final_answer": trial.answer.final,
        "answer": trial.answer.text,
    }


def _record(trial: Trial, scores: Scores, rejects: Rejects) -> dict[str, Any] | None:
    """Return the record that a trial makes, None for a drop; count it either way."""
    task, strategy = trial.plan.task, trial.plan.strategy
    if strategy is None:
        return task.record
    count_trial(scores, trial)
    if trial.problem is not None:
        detail = {"kind": task.sample.kind, "strategy": strategy.name, "answer": trial.answer.text}
        rejects.drop(task.sample.id, trial.problem, **detail)
        return None
    return erased_record(task, strategy, trial.answer.text)


def _report(scores: Scores, made: Counter[str], dropped: Counter[str]) -> dict[str, Any]:
    kinds: dict[str, Any] = {}
    for kind, of_kind in sorted(scores.items()):
        kinds[kind] = {"strategy": None}
        for name, score in of_kind.items():
            kinds[kind] = {"strategy": name, **score.values()}
    costs = (score.cost for of_kind in scores.values() for score in of_kind.values())
    return {
        "kinds": kinds,
        "samples": dict(made),
        "dropped": dict(sorted(dropped.items())),
        "cost": sum(costs),
    }


def counted_kinds(tasks: Iterator[Task]) -> Counter[str]:
    """Return how many samples of each kind there are; a bad one is known before any is paid for."""
    return Counter(task.sample.kind for task in tasks)
