"""Scores predictions by evidence position: the curve that shows whether the middle is lost."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.evaluation.tasks import find_task
from megatron_in2.files import atomic_file, read_json_lines, write_json


@dataclass(frozen=True)
class DepthScore:
    """Probes whose evidence stands from ``start`` to ``end`` of the context (0 start, 1 end).

    ``log_likelihood`` is the mean over probes of the true answer's natural log likelihood a
    token; None where the predictions carry none.
    """

    start: float
    end: float
    probes: int
    accuracy: float
    log_likelihood: float | None


@dataclass(frozen=True)
class ProbeReport:
    """A task's curve; ``average`` and ``gap`` (largest less smallest) are of its accuracies."""

    task: str
    probes: int
    average: float
    gap: float
    depths: list[DepthScore]


def score_predictions(labels: Path, predictions: Path, bins: int) -> ProbeReport:
    """Score a file of predictions against the probes it answers, line by line.

    Raises:
        InputError: the files differ in length, or a line lacks a field.
    """
    probes, answers = list(read_json_lines(labels)), list(read_json_lines(predictions))
    if len(probes) != len(answers) or not probes:
        raise InputError(
            f"{predictions} has {len(answers)} lines, {labels} has {len(probes)}: they must "
            "answer each other line by line"
        )
    accuracies: dict[int, list[float]] = defaultdict(list)
    likelihoods: dict[int, list[float]] = defaultdict(list)
    task = find_task(_field(probes[0], "task", str))
    for probe, answer in zip(probes, answers, strict=True):
        position, units = _field(probe, "position_id", int), _field(probe, "units", int)
        depth = min(int(position / units * bins), bins - 1)
        text = _prediction(answer)
        accuracies[depth].append(task.is_right(_field(probe, "completion", str), text))
        if "answer_log_likelihood" in answer[1]:
            total = _field(answer, "answer_log_likelihood", float)
            likelihoods[depth].append(total / _field(answer, "answer_tokens", int))
    depths = [
        DepthScore(
            start=depth / bins,
            end=(depth + 1) / bins,
            probes=len(accuracies[depth]),
            accuracy=fmean(accuracies[depth]),
            log_likelihood=fmean(likelihoods[depth]) if likelihoods[depth] else None,
        )
        for depth in sorted(accuracies)
    ]
    scores = [depth.accuracy for depth in depths]
    return ProbeReport(task.name, len(probes), fmean(scores), max(scores) - min(scores), depths)


def write_probe_report(report: ProbeReport, output: Path) -> None:
    """Write ``output`` (JSON) and the same as a Markdown table beside it."""
    write_json(output, asdict(report))
    with atomic_file(output.with_suffix(".md")) as stream:
        stream.write(as_table(report))


def as_table(report: ProbeReport) -> str:
    """Return the curve as a Markdown table."""
    lines = [
        f"| {report.task}: evidence at | probes | accuracy % | log likelihood a token |",
        "|---|---|---|---|",
    ]
    for depth in report.depths:
        likelihood = "" if depth.log_likelihood is None else f"{depth.log_likelihood:.3f}"
        lines.append(
            f"| {100 * depth.start:.0f}-{100 * depth.end:.0f} % | {depth.probes} | "
            f"{100 * depth.accuracy:.1f} | {likelihood} |"
        )
    lines.append(
        f"| Avg {100 * report.average:.1f}, Gap {100 * report.gap:.1f} | {report.probes} | | |"
    )
    return "\n".join(lines) + "\n"


def _prediction(line: tuple[str, dict[str, Any]]) -> str:
    """Read a prediction in the published forms: ``samples`` (a list) or ``sample``."""
    where, record = line
    value = record.get("samples", record.get("sample"))
    value = value[0] if isinstance(value, list) and value else value
    if not isinstance(value, str):
        raise InputError(f"{where}: field 'samples' or 'sample' must hold text")
    return value


def _field(line: tuple[str, dict[str, Any]], name: str, kind: type) -> Any:
    where, record = line
    value = record.get(name)
    if not isinstance(value, kind):
        raise InputError(f"{where}: field {name!r} must be {kind.__name__}, found {value!r:.60}")
    return value
