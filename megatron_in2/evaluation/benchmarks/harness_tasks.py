"""How tasks of lm-evaluation-harness are loaded, from the hub or from files, and their scores."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import Benchmark, BenchmarkScore

TASK_FILES = Path(__file__).parent / "harness"
_OF_MANY_DATA_SETS = ("mmlu", "math")  # one a subject
_WITH_EXAMPLES = ("gsm8k",)
# What datasets, the hub, and the packages that some tasks need raise where data cannot be had.
CANNOT_BE_HAD = (OSError, ValueError, RuntimeError, LookupError, ImportError)


def why(error: Exception) -> str:
    """Return an error as one short line."""
    said = " ".join(str(error).split())
    return said if isinstance(error, InputError) else f"{type(error).__name__}: {said:.200}"


def load_tasks(
    manager: Any, task: Callable[[], Any], name: str, not_run: dict[str, str]
) -> list[Any]:
    """Load a task; where its data cannot be had, note why and return nothing."""
    try:
        return list(manager.load([task()])["tasks"].values())
    except CANNOT_BE_HAD as error:
        not_run[name] = why(error)
        return []


def changed_task(name: str, **changes: Any) -> dict[str, Any]:
    """Return a task by name with changes to its file, as the harness loads it.

    The harness takes changes to a task by name only inside a group.
    """
    return {"group": "local", "task": [{"task": name, **changes}]}


def harness_task(benchmark: Benchmark, data: Path | None) -> str | dict[str, Any]:
    """Return a benchmark's task as the harness loads it; ``data`` as in HarnessConfig."""
    if data is None:
        return benchmark.harness_task
    return changed_task(benchmark.harness_task, **_local_data(benchmark, data))


def mean_score(outcome: Any, metric: str) -> BenchmarkScore:
    """Return the score of an outcome's tasks, each weighted by its samples."""
    counts = [count["effective"] for count in outcome["n-samples"].values()]
    values = [outcome["results"][name][f"{metric},none"] for name in outcome["n-samples"]]
    return BenchmarkScore(100 * float(np.average(values, weights=counts)), sum(counts))


def _local_data(benchmark: Benchmark, folder: Path) -> dict[str, Any]:
    """Point a task at local rows: every split it may name."""
    if benchmark.name in _OF_MANY_DATA_SETS:
        raise ValueError("it has a data set for each subject: take it from the hub")
    asked = train = folder / f"{benchmark.name}.jsonl"
    if benchmark.name in _WITH_EXAMPLES:
        train = folder / f"{benchmark.name}.train.jsonl"
    for path in (asked, train):
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist")
    files = {"test": str(asked), "validation": str(asked), "train": str(train)}
    return {
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }
