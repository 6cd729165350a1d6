"""Runs benchmarks on a checkpoint through lm-evaluation-harness, with task files of ours."""

from functools import partial
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BENCHMARKS, Benchmark, BenchmarkScore
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.harness_tasks import (
    TASK_FILES,
    harness_task,
    load_tasks,
    mean_score,
)
from megatron_in2.evaluation.benchmarks.prompting import prompting_with
from megatron_in2.evaluation.benchmarks.suite_run import SuiteRun
from megatron_in2.evaluation.benchmarks.suites import SUITES
from megatron_in2.evaluation.benchmarks.truncation import Window
from megatron_in2.templates.base import Template
from megatron_in2.templates.film import FILM
from megatron_in2.templates.load import BASE, load_template, read_template_beside
from megatron_in2.templates.wordings import WORDINGS
from megatron_in2.tokenizers.files import read_chat_template
from megatron_in2.tokenizers.load import load_tokenizer

SHOTS = {"mmlu": 5}  # of the harness' own tasks; the others take none, our files name theirs
OURS = "film_"  # how the names of our tasks start


def run_benchmarks(config: HarnessConfig) -> tuple[dict[str, BenchmarkScore], dict[str, str]]:
    """Run each benchmark; one whose data cannot be had does not stop the others.

    Returns:
        (scores by benchmark, reason by benchmark that was not run).

    Raises:
        InputError: the harness is not installed, the model cannot be loaded, or a file of the
            user's cannot be used.
    """
    model = _load_model(config)
    from lm_eval.tasks import TaskManager  # type: ignore[import-untyped]

    asked = [BENCHMARKS[name].harness_task for name in config.tasks if name in BENCHMARKS]
    # To read the harness' own thousands of task files takes seconds.
    tasks = TaskManager(
        include_path=str(TASK_FILES),
        include_defaults=not all(name.startswith(OURS) for name in asked),
    )
    suites = SuiteRun(config, model)
    scores, not_run = suites.scores, suites.not_run
    template = model_template(config)
    for name in config.tasks:
        if name in SUITES:
            suites.run(name)
            continue
        benchmark = BENCHMARKS[name]
        with prompting_with(template):  # loading a task writes prompts of its own accord
            loaded = load_tasks(tasks, partial(harness_task, benchmark, config.data), name, not_run)
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
    return mean_score(outcome, benchmark.harness_metric)
