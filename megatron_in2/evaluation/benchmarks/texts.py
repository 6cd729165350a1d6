"""The texts of the benchmarks, for decontamination: no training document may repeat them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BENCHMARKS
from megatron_in2.evaluation.benchmarks.harness_tasks import TASK_FILES, harness_task
from megatron_in2.evaluation.benchmarks.prompting import prompting_with
from megatron_in2.files import atomic_file
from megatron_in2.templates.film import FILM

_OUR_FIELDS = "template_"  # how the fields start that our task files add to a row


def write_evaluation_texts(
    tasks: list[str], data: Path | None, output: Path
) -> tuple[dict[str, int], dict[str, str]]:
    """Write one JSON line for each row that a benchmark asks about: every text in the row.

    Args:
        tasks: benchmarks by name.
        data: folder with NAME.jsonl in the rows of the hub's data set, instead of the hub.
        output: JSON lines, for ``decontamination.paths``.

    Returns:
        (rows by benchmark, reason by benchmark whose data cannot be had).

    Raises:
        InputError: the harness is not installed, or no benchmark's data can be had.
    """
    try:
        from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]
    except ImportError as error:
        raise InputError(
            f"{error.name} is missing: pip install 'megatron_in2[evaluation]'"
        ) from error
    manager = TaskManager(include_path=str(TASK_FILES))
    counts: dict[str, int] = {}
    missing: dict[str, str] = {}
    with atomic_file(output) as stream, prompting_with(FILM):
        for name in tasks:
            try:
                loaded = manager.load([harness_task(BENCHMARKS[name], data)])["tasks"].values()
                rows = [row for task in loaded for row in task.eval_docs]
            except (OSError, ValueError, RuntimeError) as error:  # what datasets and the hub raise
                missing[name] = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
                continue
            for row in rows:
                line = {"task": name, "texts": list(_texts(row))}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            counts[name] = len(rows)
        if not counts:
            raise InputError(
                f"the data of {', '.join(tasks)} cannot be had: reach the hub, or give --data "
                f"({next(iter(missing.values()))})"
            )
    return counts, missing


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, child in value.items():
            if not name.startswith(_OUR_FIELDS):
                yield from _texts(child)
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child)
