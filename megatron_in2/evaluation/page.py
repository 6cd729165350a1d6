"""One HTML page about a model: curves, tables, and its answers to browse. It needs no network."""

import base64
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.report import (
    BenchmarkRow,
    ModelScores,
    benchmark_rows,
    published_beside,
)
from megatron_in2.evaluation.lines import Line, prediction_text, read_pairs
from megatron_in2.evaluation.paper import PROBING
from megatron_in2.evaluation.probing.plot import plot_curves
from megatron_in2.evaluation.probing.report import read_probe_report
from megatron_in2.evaluation.probing.score import (
    ProbeReport,
    answer_of_label,
    position_of_label,
    task_of_label,
    units_of_labels,
)
from megatron_in2.evaluation.probing.tasks import find_task
from megatron_in2.files import atomic_file

MOST_ANSWERS = 1000  # of one file; more would make the page slow to open
_QUESTION_CHARACTERS = 600  # of the end of a prompt; its context is too long to show


@dataclass(frozen=True)
class Answer:
    """One answer to a probe.

    Attributes:
        place: of the evidence, in percent of the context.
        question: the end of the prompt.
        score: from 0 to 1; None for a null prediction.
    """

    task: str
    place: float
    question: str
    expected: str
    given: str
    score: float | None


@dataclass(frozen=True)
class AnswerFile:
    """The answers of one file: those that the page shows, evenly spread, of how many."""

    task: str
    shown: list[Answer]
    total: int


def read_answers(labels: Path, predictions: Path, task_name: str | None = None) -> AnswerFile:
    """Read the answers to probes; at most :data:`MOST_ANSWERS` of them, evenly spread.

    Raises:
        InputError: the files do not match, or a line lacks a field.
    """
    pairs = read_pairs(labels, predictions)
    task = task_of_label(pairs[0][0], task_name)
    units = units_of_labels([label for label, _ in pairs])
    step = -(-len(pairs) // MOST_ANSWERS)
    shown = [_answer(label, prediction, units, task) for label, prediction in pairs[::step]]
    return AnswerFile(task, shown, len(pairs))


def _answer(label: Line, prediction: Line, units: int, task: str) -> Answer:
    expected, text = answer_of_label(label), prediction_text(prediction)
    return Answer(
        task=task,
        place=100 * position_of_label(label) / label[1].get("units", units),
        question=str(label[1].get("prompt", ""))[-_QUESTION_CHARACTERS:],
        expected=expected,
        given=text or "",
        score=None if text is None else find_task(task).is_right(expected, text),
    )


def write_page(
    output: Path,
    reports: list[Path],
    scores: ModelScores | None,
    base: ModelScores | None,
    answers: list[AnswerFile],
) -> None:
    """Write the page.

    Args:
        output: an .html file.
        reports: of probing, of the model and of those to compare it with.
        scores: of benchmarks.
        base: scores of the model that it was trained from.
        answers: to browse.

    Raises:
        InputError: there is nothing to show, or a report is none.
    """
    if not reports and scores is None and not answers:
        raise InputError("nothing to show: give --reports, --scores or --answers")
    loaded = [read_probe_report(path) for path in reports]
    rows = benchmark_rows(scores, base) if scores else list[BenchmarkRow]()
    pages = Environment(
        loader=PackageLoader("megatron_in2.evaluation", "page_template"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = pages.get_template("page.html.j2").render(
        title=scores.model if scores else loaded[0].name if loaded else answers[0].task,
        curves=_curves(reports),
        probing=_probing_rows(loaded, base.model if base else ""),
        columns=[scores.model, base.model if base else None] if scores else [],
        benchmarks=rows,
        published=published_beside(rows),
        not_run=scores.not_run if scores else {},
        files=[
            {"task": each.task, "shown": len(each.shown), "total": each.total} for each in answers
        ],
        answers=_embedded([asdict(answer) for each in answers for answer in each.shown]),
    )
    with atomic_file(output) as stream:
        stream.write(page)


def _curves(reports: list[Path]) -> str | None:
    """Return the figure of all reports as a data URL."""
    if not reports:
        return None
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "curves.svg"
        plot_curves(reports, picture, paper_averages=True)
        return "data:image/svg+xml;base64," + base64.b64encode(picture.read_bytes()).decode()


def _probing_rows(reports: list[ProbeReport], base: str) -> list[dict[str, Any]]:
    """Return a row for each report, its intervals in percent, with the paper's figures for it.

    ``change`` is the average less that of the model named ``base`` on the same task and fill.
    """
    averages = {
        (report.task, report.fill): report.average for report in reports if report.name == base
    }

    def change(report: ProbeReport) -> float | None:
        before = averages.get((report.task, report.fill))
        return None if before is None or report.name == base else report.average - before

    return [
        {
            "name": report.name,
            "task": report.task,
            "tokens": report.context_tokens,
            "fill": report.fill,
            "probes": report.probes,
            "average": 100 * report.average,
            "change": None if (changed := change(report)) is None else 100 * changed,
            "average_interval": [100 * value for value in report.average_interval],
            "gap": 100 * report.gap,
            "worst": min(report.depths, key=lambda depth: depth.accuracy),
            "paper": {
                name: row[report.task] for name, row in PROBING.items() if report.task in row
            },
        }
        for report in reports
    ]


def _embedded(value: Any) -> str:
    """Return JSON that no text in it can end, inside a script element."""
    return json.dumps(value, ensure_ascii=True).replace("<", "\\u003c")
