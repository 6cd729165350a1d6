"""Probe reports as JSON and Markdown, and the paper's rows beside them."""

from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

from megatron_in2.errors import InputError
from megatron_in2.evaluation.paper import PROBING, PROBING_TASKS
from megatron_in2.evaluation.probing.score import DepthScore, ProbeReport
from megatron_in2.files import atomic_file, read_json, write_json

AverageAndGap = tuple[float, float]  # percent


def write_probe_report(report: ProbeReport, output: Path) -> None:
    """Write ``output`` (JSON) and the same as Markdown beside it."""
    write_json(output, asdict(report))
    with atomic_file(output.with_suffix(".md")) as stream:
        stream.write(as_table(report))
        if report.task in PROBING_TASKS:
            stream.write("\n" + comparison_table([report]))


def read_probe_report(path: Path) -> ProbeReport:
    """Read a report that :func:`write_probe_report` wrote.

    Raises:
        InputError: it is missing or is none.
    """
    value = read_json(path)
    try:
        depths = [DepthScore(**depth) for depth in value.pop("depths")]
        return ProbeReport(**value, depths=depths)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no report of in2 probe score") from error


def as_table(report: ProbeReport) -> str:
    """Return the curve as a Markdown table."""
    lines = [
        f"| {report.task}: evidence at | probes | accuracy % | +- over {report.sets} sets | "
        "95 % interval | log likelihood a token |",
        "|---|---|---|---|---|---|",
    ]
    for depth in report.depths:
        likelihood = "" if depth.log_likelihood is None else f"{depth.log_likelihood:.3f}"
        lines.append(
            f"| {100 * depth.start:.0f}-{100 * depth.end:.0f} % | {depth.probes} | "
            f"{100 * depth.accuracy:.1f} | {100 * depth.deviation:.1f} | "
            f"{_range((depth.low, depth.high))} | {likelihood} |"
        )
    lines.append(
        f"| Avg | {report.probes} | {100 * report.average:.1f} | | "
        f"{_range(report.average_interval)} | |"
    )
    lines.append(f"| Gap | | {100 * report.gap:.1f} | | {_range(report.gap_interval)} | |")
    counts = f"{report.skipped} skipped as ambiguous, {report.nulls} null predictions left out"
    return "\n".join(lines) + f"\n\nGrouped by {report.grouping}; {counts}.\n"


def comparison_table(reports: list[ProbeReport]) -> str:
    """Return averages and gaps of models by task, the paper's rows beside, as Markdown.

    "all" is the mean over the three tasks, for models that have them all.

    Raises:
        InputError: two reports are of one model and task.
    """
    models: dict[str, dict[str, AverageAndGap]] = defaultdict(dict)
    for report in reports:
        if report.task in models[report.name]:
            raise InputError(
                f"two reports of {report.name} on {report.task}: tell them apart by score --name"
            )
        models[report.name][report.task] = (100 * report.average, 100 * report.gap)
    others = sorted({report.task for report in reports} - set(PROBING_TASKS))
    columns = [*PROBING_TASKS, "all", *others]
    lines = [f"| Avg / Gap | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    rows = [*models.items(), *((f"{name} (paper)", row) for name, row in PROBING.items())]
    for name, row in rows:
        cells = [_cell(row.get(task)) for task in PROBING_TASKS]
        cells += [_cell(_over_all(row)), *(_cell(row.get(task)) for task in others)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _over_all(row: dict[str, AverageAndGap]) -> AverageAndGap | None:
    if any(task not in row for task in PROBING_TASKS):
        return None
    values = [row[task] for task in PROBING_TASKS]
    return fmean(average for average, _ in values), fmean(gap for _, gap in values)


def _cell(value: AverageAndGap | None) -> str:
    return "" if value is None else f"{value[0]:.1f} / {value[1]:.1f}"


def _range(limits: tuple[float, float]) -> str:
    return f"{100 * limits[0]:.1f} - {100 * limits[1]:.1f}"
