"""Draws probing results: the paper's panels, and a heat map of context length by depth."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from megatron_in2.errors import InputError
from megatron_in2.evaluation.paper import PROBING
from megatron_in2.evaluation.probing.report import read_probe_report
from megatron_in2.evaluation.probing.score import ProbeReport
from megatron_in2.evaluation.probing.tasks import TASKS
from megatron_in2.files import atomic_file

Style = tuple[str, str]  # colour, line style

_PAPER_STYLES: dict[str, Style] = {  # as the paper draws them
    "FILM-7B": ("#E97132", "-"),
    "Mistral-7B-Instruct-v0.2": ("#7F7F7F", "-"),
    "GPT-4-Turbo": ("#0F9ED5", ":"),
}
_OTHER_STYLES: list[Style] = [
    ("#2E7D32", "-"),
    ("#8E44AD", "-"),
    ("#B03A2E", "-"),
    ("#1F3A93", "--"),
    ("#6D4C41", "--"),
]
_LEGEND_ENTRY_INCHES = 3.2  # of the longest entry


def plot_curves(reports: list[Path], output: Path, paper_averages: bool) -> None:
    """Draw one panel a task, one curve a report, error bars over sets.

    Where predictions carry the answer's likelihood, a second row of panels shows it.

    Args:
        reports: from :func:`~megatron_in2.evaluation.probing.report.write_probe_report`.
        output: its ending, .png or .svg, gives the format.
        paper_averages: draw the paper's averages as thin lines.

    Raises:
        InputError: a report is missing or is none, or the ending is no picture's.
    """
    loaded = [read_probe_report(path) for path in reports]
    styles = _styles([_label(report) for report in loaded])
    tasks = [name for name in TASKS if any(report.task == name for report in loaded)]
    likely = any(depth.log_likelihood is not None for report in loaded for depth in report.depths)
    rows = 1 + likely
    figure = new_figure(output, (max(5.2 * len(tasks), 6.5), 4.4 * rows))
    panels = figure.subplots(rows, len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        of_task = [report for report in loaded if report.task == task]
        _draw_accuracy(panels[0][column], of_task, styles)
        if paper_averages:
            _draw_paper_averages(panels[0][column], task)
        if likely:
            _draw_likelihood(panels[1][column], of_task, styles)
    panels[0][0].set_ylabel("accuracy (%)")
    _legend(figure, styles, paper_averages)
    if likely:
        panels[1][0].set_ylabel("log likelihood a token of the true answer")
    save_figure(figure, output)


def plot_heat_map(reports: list[Path], output: Path) -> None:
    """Draw accuracy by context length (rows) and evidence depth (columns).

    Raises:
        InputError: the reports are not of one model and task, differ in depths, tell no length,
            or tell one twice.
    """
    loaded = [read_probe_report(path) for path in reports]
    loaded.sort(key=lambda report: report.context_tokens or 0)
    lengths = [report.context_tokens for report in loaded]
    edges = {tuple((depth.start, depth.end) for depth in report.depths) for report in loaded}
    if None in lengths or len(set(lengths)) < len(lengths):
        raise InputError("a heat map needs reports of different, known context lengths")
    if len({(report.name, report.task) for report in loaded}) > 1:
        raise InputError("a heat map needs reports of one model and one task")
    if len(edges) > 1:
        raise InputError("a heat map needs the same depths throughout: score with --bins")
    (depths,) = edges
    figure = new_figure(output, (max(6.5, 0.6 * len(depths) + 2), 0.5 * len(loaded) + 2))
    axes = figure.subplots()
    values = [[100 * depth.accuracy for depth in report.depths] for report in loaded]
    image = axes.imshow(values, vmin=0, vmax=100, cmap="viridis", aspect="auto", origin="lower")
    for row, report_values in enumerate(values):
        for column, value in enumerate(report_values):
            colour = "white" if value < 60 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour)
    axes.set_xticks(range(len(depths)), [f"{50 * (start + end):.0f}" for start, end in depths])
    axes.set_yticks(range(len(loaded)), [_length_label(report) for report in loaded])
    axes.set_xlabel("evidence position in the context (%)")
    axes.set_ylabel("context (tokens)")
    axes.set_title(f"{loaded[0].name}: {TASKS[loaded[0].task].title}")
    figure.colorbar(image, label="accuracy (%)")
    save_figure(figure, output)


def _label(report: ProbeReport) -> str:
    """Return a curve's name: the model's, with the fill of a window that is not full."""
    partly = report.fill is not None and report.fill < 1
    return f"{report.name}, {100 * (report.fill or 0):g} % full" if partly else report.name


def _length_label(report: ProbeReport) -> str:
    filled = "" if report.fill is None else f" ({100 * report.fill:g} % full)"
    return f"{report.context_tokens:,}{filled}"


def _draw_accuracy(axes: Any, reports: list[ProbeReport], styles: dict[str, Style]) -> None:
    task = TASKS[reports[0].task]
    place = _place(axes, reports)
    for report in reports:
        colour, line = styles[_label(report)]
        axes.errorbar(
            place(report),
            [100 * depth.accuracy for depth in report.depths],
            yerr=[100 * depth.deviation for depth in report.depths],
            color=colour,
            ecolor=(colour, 0.5),
            linestyle=line,
            marker="o",
            markersize=4,
            capsize=2.5,
            elinewidth=1,
        )
    axes.set_title(task.title)
    axes.set_ylim(-3, 103)
    axes.grid(alpha=0.25)


def _draw_paper_averages(axes: Any, task: str) -> None:
    for name, row in PROBING.items():
        if task in row:
            axes.axhline(row[task][0], color=_PAPER_STYLES[name][0], linewidth=1, alpha=0.7)


def _draw_likelihood(axes: Any, reports: list[ProbeReport], styles: dict[str, Style]) -> None:
    place = _place(axes, reports)
    for report in reports:
        values = [
            float("nan") if depth.log_likelihood is None else depth.log_likelihood
            for depth in report.depths
        ]
        colour, line = styles[_label(report)]
        axes.plot(place(report), values, color=colour, linestyle=line, marker="o", markersize=4)
    axes.grid(alpha=0.25)


def _legend(figure: Figure, styles: dict[str, Style], paper_averages: bool) -> None:
    handles = [
        Line2D([], [], color=colour, linestyle=line, marker="o", markersize=4, label=name)
        for name, (colour, line) in styles.items()
    ]
    if paper_averages:
        handles += [
            Line2D([], [], color=colour, linewidth=1, label=f"{name}, the paper's average")
            for name, (colour, _) in _PAPER_STYLES.items()
        ]
    columns = max(1, int(figure.get_figwidth() // _LEGEND_ENTRY_INCHES))
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, fontsize=8)


def _place(axes: Any, reports: list[ProbeReport]) -> Callable[[ProbeReport], list[float]]:
    """Label the axis as the paper does where all contexts have the same units, else in percent.

    Returns:
        What gives a report's places on that axis.
    """
    units = {report.units for report in reports}
    by_span = all(report.grouping.startswith("spans") for report in reports)
    if by_span and len(units) == 1:
        (count,) = units
        axes.set_xlabel(f"relative position in {count} {TASKS[reports[0].task].units}")
        ends = [round(depth.end * count) for depth in reports[0].depths]
        axes.set_xticks(ends, [str(end) for end in ends], rotation=45, fontsize=8)
        return lambda report: [round(depth.end * count) for depth in report.depths]
    axes.set_xlabel("evidence position in the context (%)")
    axes.set_xlim(0, 100)
    return lambda report: [50 * (depth.start + depth.end) for depth in report.depths]


def _styles(names: list[str]) -> dict[str, Style]:
    """Give every model one style throughout; the paper's models keep theirs."""
    others = itertools.cycle(_OTHER_STYLES)
    return {name: _PAPER_STYLES.get(name) or next(others) for name in dict.fromkeys(names)}


def new_figure(output: Path, size: tuple[float, float]) -> Figure:
    """Return an empty figure of a size in inches that can be saved as ``output``.

    Raises:
        InputError: the ending is no picture's.
    """
    figure = Figure(figsize=size, layout="constrained")
    if output.suffix[1:] not in figure.canvas.get_supported_filetypes():
        raise InputError(f"{output}: name it .png or .svg")
    return figure


def save_figure(figure: Figure, output: Path) -> None:
    """Write a figure, whole or not at all."""
    with atomic_file(output, "wb") as stream:
        figure.savefig(stream, format=output.suffix[1:], dpi=160)
