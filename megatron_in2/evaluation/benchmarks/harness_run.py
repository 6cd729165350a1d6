"""Runs benchmarks on a checkpoint through lm-evaluation-harness, with task files of ours."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.choices import as_option, require_choices, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, BenchmarkScore
from megatron_in2.evaluation.benchmarks.prompting import prompting_with
from megatron_in2.evaluation.benchmarks.suites import RULER_LENGTHS, SUITES, Suite, run_name
from megatron_in2.evaluation.benchmarks.truncation import Window
from megatron_in2.templates.base import Template
from megatron_in2.templates.film import FILM
from megatron_in2.templates.load import BASE, load_template, read_template_beside
from megatron_in2.templates.wordings import WORDINGS, WordingName
from megatron_in2.tokenizers.files import read_chat_template
from megatron_in2.tokenizers.load import load_tokenizer

TASK_FILES = Path(__file__).parent / "harness"
SHOTS = {"mmlu": 5}  # of the harness' own tasks; the others take none, our files name theirs
_OF_MANY_DATA_SETS = ("mmlu", "math")  # one a subject
_WITH_EXAMPLES = ("gsm8k",)
OURS = "film_"  # how the names of our tasks start


@dataclass(frozen=True)
class HarnessConfig:
    """What to run.

    Args:
        model: Hugging Face checkpoint.
        tasks: benchmarks by name.
        data: folder with NAME.jsonl in the rows of the hub's data set, instead of the hub;
            gsm8k takes its examples from gsm8k.train.jsonl.
        limit: samples of each task; 0 takes all.
        batch_size: samples at a time.
        template: writes the prompts of our tasks: film, chatml, a YAML file, an export's
            directory, or base: the model's own chat template; empty takes the one that the model
            was trained with, else its own, or FILM's where it has none.
        wording: of a user's message inside a base's own chat template.
        lengths: of RULER's and BABILong's prompts, in tokens.
        max_length: most tokens of a prompt and its answer together; 0 takes the model's window.
            LongBench's longer inputs lose their middle.
    """

    model: Path
    tasks: list[str]
    data: Path | None = None
    limit: int = 0
    batch_size: int = 1
    template: str = ""
    wording: WordingName = "film"
    lengths: list[int] = field(default_factory=lambda: [32768])
    max_length: int = 0

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        for name in ("limit", "max_length"):
            if getattr(self, name) < 0:
                raise InputError(f"{as_option(name, getattr(self, name))}: give 0 or more")
        for name in self.tasks:
            if name not in BENCHMARKS and name not in SUITES:
                raise wrong_choice(as_option("tasks", name), (*BENCHMARKS, *SUITES))
        for length in self.lengths:
            if length not in RULER_LENGTHS:
                raise InputError(f"--lengths {length}: use {', '.join(map(str, RULER_LENGTHS))}")


def run_benchmarks(config: HarnessConfig) -> tuple[dict[str, BenchmarkScore], dict[str, str]]:
    """Run each benchmark; one whose data cannot be had does not stop the others.

    Returns:
        (scores by benchmark, reason by benchmark that was not run).

    Raises:
        InputError: the harness is not installed, or the model cannot be loaded.
    """
    model = _load_model(config)
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    asked = [BENCHMARKS[name].harness_task for name in config.tasks if name in BENCHMARKS]
    own_only = all(name in BENCHMARKS for name in config.tasks)
    # To read the harness' own thousands of task files takes seconds.
    tasks = TaskManager(
        include_path=str(TASK_FILES),
        include_defaults=not (own_only and all(name.startswith(OURS) for name in asked)),
    )
    scores: dict[str, BenchmarkScore] = {}
    not_run: dict[str, str] = {}
    template = model_template(config)
    for name in config.tasks:
        if name in SUITES:
            for length in config.lengths if SUITES[name].length else [None]:
                _run_suite(name, length, config, model, scores, not_run)
            continue
        benchmark = BENCHMARKS[name]
        with prompting_with(template):  # loading a task writes prompts of its own accord
            loaded = _loaded(tasks, partial(harness_task, benchmark, config.data), name, not_run)
        if loaded:
            with prompting_with(template, _window(model, loaded[0])):
                scores[name] = _run(benchmark, config, model, loaded, tasks)
    return scores, not_run


def _load_model(config: HarnessConfig) -> Any:
    try:
        import torch

        from megatron_in2.evaluation.benchmarks.harness_model import BothEndsLM
    except ImportError as error:
        raise InputError(
            f"{error.name} is missing: pip install 'megatron_in2[evaluation]'"
        ) from error
    if not (config.model / "config.json").is_file():
        raise InputError(f"{config.model} is no Hugging Face checkpoint (no config.json)")
    return BothEndsLM(
        pretrained=str(config.model),
        batch_size=config.batch_size,
        add_bos_token=True,
        max_length=config.max_length or None,
        dtype="auto",
        device="cuda" if torch.cuda.is_available() else "cpu",
    )


def _loaded(manager: Any, task: Callable[[], Any], name: str, not_run: dict[str, str]) -> list[Any]:
    """Load a task; where its data cannot be had, note why and return nothing."""
    try:
        return list(manager.load([task()])["tasks"].values())
    except (OSError, ValueError, RuntimeError, LookupError, ImportError) as error:
        # What datasets, the hub, and the packages that some tasks need raise.
        reason = " ".join(str(error).split())
        not_run[name] = f"{type(error).__name__}: {reason:.200}"
        return []


def _run_suite(
    name: str,
    length: int | None,
    config: HarnessConfig,
    model: Any,
    scores: dict[str, BenchmarkScore],
    not_run: dict[str, str],
) -> None:
    """Run each task of a suite that can be had; the suite has a score only if all of them can."""
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    suite, parts = SUITES[name], []
    metadata: dict[str, Any] = {"pretrained": str(config.model)}
    if suite.length is not None and length is not None:
        metadata["max_seq_lengths"] = suite.length(length)
    manager = TaskManager(metadata=metadata)
    for task in suite.tasks:
        part = run_name(name, length, task if len(suite.tasks) > 1 else None)
        if loaded := _loaded(manager, partial(str, task), part, not_run):
            scores[part] = _run_part(suite, length or 0, config, model, loaded, manager)
            parts.append(scores[part])
    if len(parts) == len(suite.tasks) > 1:
        mean = float(np.mean([part.score for part in parts]))
        scores[run_name(name, length)] = BenchmarkScore(mean, sum(part.samples for part in parts))


def _run_part(
    suite: Suite, length: int, config: HarnessConfig, model: Any, tasks: list[Any], manager: Any
) -> BenchmarkScore:
    import lm_eval  # type: ignore[import-untyped]

    outcome = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,
        limit=config.limit or None,
        log_samples=False,
        bootstrap_iters=0,
        apply_chat_template=suite.is_chat and model.tokenizer.chat_template is not None,
        gen_kwargs=f"max_gen_toks={suite.answer_tokens}" if suite.answer_tokens else None,
    )
    return _mean_score(outcome, suite.metric_at(length))


def _window(model: Any, task: Any) -> Window | None:
    """Return what a task's prompts must fit in beside their answers; None for likelihoods."""
    answer = (task.config.generation_kwargs or {}).get("max_gen_toks")
    if answer is None:
        return None
    return Window(model.tokenizer, model.tok_encode, model.max_length - answer)


def model_template(config: HarnessConfig) -> Template:
    """Return the template that a run's prompts are written with.

    Raises:
        InputError: there is no template of the name given, or it has a wording of its own.
    """
    if config.template and config.template != BASE:
        return load_template(config.template, wording=config.wording)
    found = None if config.template else read_template_beside(config.model)
    if found is None and read_chat_template(config.model) is not None:
        return load_template(BASE, load_tokenizer(str(config.model)), config.wording)
    found = found or FILM
    if config.wording == "plain" and found.wording != WORDINGS["plain"]:
        raise InputError(
            f"--wording plain: template {found.name} of {config.model} has a wording of its own"
        )
    return found


def harness_task(benchmark: Benchmark, data: Path | None) -> str | dict[str, Any]:
    """Return a benchmark's task as the harness loads it; ``data`` as in HarnessConfig."""
    if data is None:
        return benchmark.harness_task
    # The harness takes changes to a task by name only inside a group.
    changed = {"task": benchmark.harness_task, **_local_data(benchmark, data)}
    return {"group": "local", "task": [changed]}


def _run(
    benchmark: Benchmark, config: HarnessConfig, model: Any, tasks: list[Any], manager: Any
) -> BenchmarkScore:
    import lm_eval  # type: ignore[import-untyped]

    outcome = lm_eval.simple_evaluate(
        model=model,
        tasks=tasks,
        task_manager=manager,  # without one it reads all task files again
        num_fewshot=SHOTS.get(benchmark.name),
        limit=config.limit or None,
        log_samples=False,
        bootstrap_iters=0,
    )
    return _mean_score(outcome, benchmark.harness_metric)


def _mean_score(outcome: Any, metric: str) -> BenchmarkScore:
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
