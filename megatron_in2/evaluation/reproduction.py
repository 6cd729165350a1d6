"""Scores the predictions that the FILM repository publishes, beside the paper's figures.

A check of every scorer of this package that needs no GPU: github.com/microsoft/FILM holds labels
and predictions of VaL probing, LongBench, GSM8K, MATH and CSQA.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_in2.errors import InputError
from megatron_in2.evaluation import paper
from megatron_in2.evaluation.benchmarks.catalogue import (
    BenchmarkScore,
    Scorer,
    score_benchmark,
    score_datasets,
)
from megatron_in2.evaluation.probing.score import Grouping, score_predictions

TOLERANCE = 0.1  # percentage points; the paper rounds to one decimal
_MODELS = {  # name of the results folder -> name in the paper
    "Mistral-7B-Instruct-v0.2": "Mistral-7B-Instruct-v0.2",
    "FILM-7B": "FILM-7B",
    "gpt4-turbo": "GPT-4-Turbo",
}
_PROBING = {
    "document": "document_bi_32k",
    "code": "code_backward_32k",
    "database": "database_forward_32k",
}
_SHORT = {"csqa": "csqa_0shot", "gsm8k": "gsm8k_8shot", "math": "math_4shot"}
_LONG_OUTPUTS = (32, 64, 128, 512)  # tokens; LongBench's data sets are grouped by this limit
_PROBES = "VaLProbing/VaLProbing-32K"
_UNPACK = "unzip the archives in real_world_long/prompts"
_DOWNLOAD = "run VaLProbing/download.py, or in2 probe download with --labels"


@dataclass(frozen=True)
class Reproduced:
    """One published figure, and the scores of the published predictions; all in percent.

    Attributes:
        figure: what is measured: a benchmark's name, or a probing task's "average" or "gap".
        published: the paper's; None where the paper has none.
        film: by the rules of FILM's scripts.
        standard: by this package's own rules.
        predictions: how many were scored.
    """

    model: str
    figure: str
    published: float | None
    film: float
    standard: float
    predictions: int


@dataclass(frozen=True)
class Absent:
    """Published figures that could not be scored, and what to do."""

    model: str
    figure: str
    reason: str


def reproduce(repository: Path, labels: Path | None = None) -> list[Reproduced | Absent]:
    """Score every prediction file in a copy of the FILM repository.

    Args:
        repository: a clone of github.com/microsoft/FILM.
        labels: a folder with labels that the clone lacks: ``NAME.jsonl`` of a probing task (as
            ``in2 probe download`` writes it) or of a benchmark (rows of the hub's data set, in
            the hub's order).

    Returns:
        One entry for each figure, by model; the clone's missing files are ``Absent`` entries.

    Raises:
        InputError: ``repository`` holds no prediction of FILM's, or a file in it is damaged.
    """
    found = list(_all_figures(_Copy(repository, labels)))
    if not any(isinstance(entry, Reproduced) for entry in found):
        raise InputError(
            f"{repository} holds no labels and predictions of FILM: clone "
            "https://github.com/microsoft/FILM there"
        )
    return found


@dataclass(frozen=True)
class _Copy:
    """Where a clone, and a folder beside it, hold what."""

    repository: Path
    extra: Path | None

    def predictions(self, root: str, folder: str, file: str) -> Path:
        """Return where a model's answers to a file are."""
        return self.repository / root / "results" / folder / f"sample_{file}.jsonl"

    def first_existing(self, published: str, name: str) -> Path | None:
        """Return labels as published, else those of the folder beside."""
        places = [self.repository / published]
        if self.extra is not None:
            places.append(self.extra / f"{name}.jsonl")
        return next((path for path in places if path.is_file()), None)


@dataclass(frozen=True)
class _Published:
    """One prediction file of the clone.

    Args:
        model: which made the predictions.
        name: of the task or file, also of labels beside the clone.
        predictions: the file.
        labels: where the clone has the labels, if it does.
        remedy: what to do where labels are missing.
    """

    model: str
    name: str
    predictions: Path
    labels: str
    remedy: str


def _all_figures(copy: _Copy) -> Iterator[Reproduced | Absent]:
    for folder, model in _MODELS.items():
        for task, file in _PROBING.items():
            predictions = copy.predictions(_PROBES, folder, file)
            labels = f"{_PROBES}/{file}.jsonl"
            found = _Published(model, task, predictions, labels, _DOWNLOAD)
            yield from _scored(copy, found, _probing)
        for limit in _LONG_OUTPUTS:
            file = f"LongBench_output_{limit}"
            predictions = copy.predictions("real_world_long", folder, file)
            labels = f"real_world_long/prompts/{file}.jsonl"
            found = _Published(model, file, predictions, labels, _UNPACK)
            yield from _scored(copy, found, _long)
        for name, file in _SHORT.items():
            predictions = copy.predictions("short_tasks", folder, file)
            labels = f"short_tasks/prompts/{file}.jsonl"
            remedy = f"the clone lacks prompts/{file}.jsonl, give --labels"
            found = _Published(model, name, predictions, labels, remedy)
            yield from _scored(copy, found, _short)


def _scored(
    copy: _Copy, found: _Published, score: Callable[[_Published, Path], Iterator[Reproduced]]
) -> Iterator[Reproduced | Absent]:
    if not found.predictions.is_file():
        return
    labels = copy.first_existing(found.labels, found.name)
    if labels is None:
        yield Absent(found.model, found.name, f"no labels: {found.remedy}")
        return
    yield from score(found, labels)


def _probing(found: _Published, labels: Path) -> Iterator[Reproduced]:
    skipped = found.predictions.parents[2] / f"{Path(found.labels).stem}_skip_list.json"
    film, standard = (
        score_predictions(labels, found.predictions, grouping, found.name, skipped)
        for grouping in (Grouping(published=True), Grouping())
    )
    average, gap = paper.PROBING[found.model][found.name]
    for measure, published, theirs, ours in (
        ("average", average, film.average, standard.average),
        ("gap", gap, film.gap, standard.gap),
    ):
        figure = f"{found.name} {measure}"
        yield Reproduced(found.model, figure, published, 100 * theirs, 100 * ours, standard.probes)


def _long(found: _Published, labels: Path) -> Iterator[Reproduced]:
    yield from _by_both_rules(
        found.model, lambda scorer: score_datasets(labels, found.predictions, scorer)
    )


def _short(found: _Published, labels: Path) -> Iterator[Reproduced]:
    def score(scorer: Scorer) -> dict[str, BenchmarkScore]:
        return {found.name: score_benchmark(found.name, labels, found.predictions, scorer)}

    yield from _by_both_rules(found.model, score)


def _by_both_rules(
    model: str, score: Callable[[Scorer], dict[str, BenchmarkScore]]
) -> Iterator[Reproduced]:
    film, standard = score("film"), score("standard")
    for name, theirs in film.items():
        yield Reproduced(
            model,
            name,
            _published(model, name),
            theirs.score,
            standard[name].score,
            theirs.samples,
        )


def _published(model: str, name: str) -> float | None:
    if name not in paper.BENCHMARKS or model not in paper.BENCHMARK_MODELS:
        return None
    return paper.BENCHMARKS[name][paper.BENCHMARK_MODELS.index(model)]


Mark = Literal["terminal", "markdown", "none"]
_RED = {"terminal": "\033[31m{}\033[0m", "markdown": '<span style="color:red">**{}**</span>'}


def reproduction_table(entries: list[Reproduced | Absent], mark: Mark) -> str:
    """Return a Markdown table; scores that differ from the paper's by more than 0.1 are red."""
    heads = ("model", "figure", "paper", "FILM's scorer", "standard scorer", "predictions")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for entry in entries:
        if isinstance(entry, Reproduced):
            published = "" if entry.published is None else f"{entry.published:.1f}"
            scores = [_cell(value, entry.published, mark) for value in (entry.film, entry.standard)]
            cells = [entry.model, entry.figure, published, *scores, f"{entry.predictions:,}"]
            lines.append(f"| {' | '.join(cells)} |")
    absent: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        if isinstance(entry, Absent):
            absent.setdefault((entry.figure, entry.reason), []).append(entry.model)
    if absent:
        lines += ["", "Not scored:", ""]
        lines += [
            f"- {figure} ({', '.join(models)}): {reason}"
            for (figure, reason), models in absent.items()
        ]
    return "\n".join(lines) + "\n"


def _cell(value: float, published: float | None, mark: Mark) -> str:
    text = f"{value:.2f}"
    if published is None or abs(value - published) <= TOLERANCE or mark == "none":
        return text
    return _RED[mark].format(text)
