"""Runs the long-context suites through lm-evaluation-harness, on the hub's data or the user's."""

import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from megatron_in2.evaluation.benchmarks import ruler
from megatron_in2.evaluation.benchmarks.catalogue import BenchmarkScore
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.harness_tasks import (
    TASK_FILES,
    changed_task,
    load_tasks,
    mean_score,
)
from megatron_in2.evaluation.benchmarks.prompting import prompting_with
from megatron_in2.evaluation.benchmarks.suites import SUITES, Suite, run_name
from megatron_in2.evaluation.benchmarks.truncation import Window
from megatron_in2.parallel.replaced import replaced
from megatron_in2.templates.film import FILM


@dataclass
class SuiteRun:
    """Runs suites on one model; keeps what they score, and why others cannot be run.

    Raises:
        InputError: a file of the user's cannot be used; known before the first task takes hours.
    """

    config: HarnessConfig
    model: Any
    scores: dict[str, BenchmarkScore] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._sources = ruler.RulerSources()
        if "ruler" in self.config.tasks:
            self._sources = ruler.read_sources(self.config)
            ruler.require_words(self._sources, self.model.tok_encode, max(self.config.lengths))
            _say_what_lacks(self._sources)

    def run(self, name: str) -> None:
        """Run each task of a suite that can be had; the suite has a score only if all can."""
        suite = SUITES[name]
        for length in self.config.lengths if suite.length else [None]:
            self._run_at(name, suite, length)

    def _run_at(self, name: str, suite: Suite, length: int | None) -> None:
        manager = _manager(suite, length, self.config)
        parts = []
        for task in suite.tasks:
            part = run_name(name, length, task if len(suite.tasks) > 1 else None)
            if (source := ruler.NEEDS.get(task)) in self._sources.missing:
                self.not_run[part] = self._sources.missing[source]
                continue
            with self._data(name, suite):
                made = partial(_with_sources, task, self._sources)
                loaded = load_tasks(manager, made, part, self.not_run)
            if name == "ruler" and loaded and not ruler.has_answers(loaded[0]):
                self.not_run[part] = "the tokenizer needs more tokens for it: give longer --lengths"
            elif loaded:
                self.scores[part] = self._score(suite, length, loaded, manager)
                parts.append(self.scores[part])
        if len(suite.tasks) > 1:
            self._sum_up(run_name(name, length), parts, len(suite.tasks))

    def _sum_up(self, name: str, parts: list[BenchmarkScore], tasks: int) -> None:
        """Give a suite the mean of its tasks, if all of them were run."""
        if len(parts) < tasks:
            reason = f"no mean: {tasks - len(parts)} of its {tasks} tasks were not run"
            self.not_run[name] = reason
            return
        mean = float(np.mean([part.score for part in parts]))
        self.scores[name] = BenchmarkScore(mean, sum(part.samples for part in parts))

    def _data(self, name: str, suite: Suite) -> AbstractContextManager[None]:
        """Have the harness take a suite's repository from ``--data`` while its tasks load."""
        if self.config.data is None or suite.repository is None:
            return nullcontext()
        import datasets

        copy = partial(_load_copy, suite.repository, self.config.data / name, datasets.load_dataset)
        return replaced({datasets: {"load_dataset": copy}})

    def _score(
        self, suite: Suite, length: int | None, tasks: list[Any], manager: Any
    ) -> BenchmarkScore:
        import lm_eval  # type: ignore[import-untyped]

        model = self.model
        with prompting_with(FILM, self._window(suite, length, tasks)):
            outcome = lm_eval.simple_evaluate(
                model=model,
                tasks=tasks,
                task_manager=manager,
                limit=self.config.limit or None,
                log_samples=False,
                bootstrap_iters=0,
                apply_chat_template=suite.is_chat and model.tokenizer.chat_template is not None,
                gen_kwargs=f"max_gen_toks={suite.answer_tokens}" if suite.answer_tokens else None,
            )
        return mean_score(outcome, suite.metric_at(length or 0))

    def _window(self, suite: Suite, length: int | None, tasks: list[Any]) -> Window | None:
        """Return what prompts of our own suites must fit in beside their answers."""
        if suite.folder is not None or length is None:
            return None
        answer = tasks[0].config.generation_kwargs["max_gen_toks"]
        most = min(length, self.model.max_length)
        return Window(self.model.tokenizer, self.model.tok_encode, most - answer)


def _say_what_lacks(sources: ruler.RulerSources) -> None:
    """Name RULER's tasks that will not run, before the others take hours."""
    for source, reason in sources.missing.items():
        tasks = [task for task, needed in ruler.NEEDS.items() if needed == source]
        tqdm.write(f"ruler: {', '.join(tasks)} will not run: {reason}", file=sys.stderr)


def _manager(suite: Suite, length: int | None, config: HarnessConfig) -> Any:
    """Return what loads a suite's tasks; to read all of the harness' task files takes seconds."""
    import lm_eval.tasks  # type: ignore[import-untyped]

    metadata: dict[str, Any] = {"pretrained": str(config.model)}
    if suite.folder is None:
        folder, metadata["data"] = TASK_FILES, config.data and str(config.data)
    else:
        folder = Path(lm_eval.tasks.__file__).parent / suite.folder
    if suite.length is not None and length is not None:
        metadata["max_seq_lengths"] = suite.length(length)
    return lm_eval.tasks.TaskManager(
        include_path=str(folder), include_defaults=False, metadata=metadata
    )


def _with_sources(task: str, sources: ruler.RulerSources) -> str | dict[str, Any]:
    generator = ruler.generator(task, sources)
    return task if generator is None else changed_task(task, custom_dataset=generator)


def _load_copy(
    repository: str, folder: Path, load: Any, path: str, *rest: Any, **options: Any
) -> Any:
    """Load a data set as ``datasets.load_dataset`` does, a repository from a folder.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    if path != repository:
        return load(path, *rest, **options)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} does not exist: hf download {repository} --repo-type dataset --local-dir "
            f"{folder}"
        )
    return load(str(folder), *rest, **options)
