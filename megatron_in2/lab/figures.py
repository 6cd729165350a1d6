"""Figures of a study: accuracy by group of probes, and against a dose."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from megatron_in2.evaluation.probing.bootstrap import interval
from megatron_in2.evaluation.probing.plot import new_figure, save_figure
from megatron_in2.evaluation.probing.score import ProbeReport
from megatron_in2.lab.config import Selection
from megatron_in2.lab.expected import resampled, value_of
from megatron_in2.lab.scores import Key, MeasureScores
from megatron_in2.lab.study import Study, ValueName

_LIMITS = (-0.03, 1.03)
_DOSE_VALUES: tuple[tuple[ValueName, str, str], ...] = (
    ("worst", "#E97132", "worst group"),
    ("mean", "#0F9ED5", "mean of the groups"),
)


def draw_groups(
    study: Study, selection: Selection, scores: MeasureScores, measure: str, output: Path
) -> None:
    """Draw one panel for each panel of the study, one curve for each arm.

    Thick lines are all seeds, thin ones single seeds, bands 95 % bootstrap intervals. Groups that
    are names have bars of that interval instead of lines and bands.
    """
    if study.measures[measure].named:
        _draw_names(study, selection, scores, measure, output)
        return
    figure, panels = _panels(study, selection, output)
    for panel, axes in panels.items():
        for arm in selection.arms:
            colour = study.text.arms[arm].colour
            for curves in scores.single:
                _plot(axes, curves[panel, arm], colour, linewidth=0.6, alpha=0.5)
            report = scores.pooled[panel, arm]
            _plot(axes, report, colour, linewidth=2.0, marker="o", markersize=3)
            low = [depth.low for depth in report.depths]
            high = [depth.high for depth in report.depths]
            axes.fill_between(_centres(report), low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_xlabel(study.measures[measure].axis)
        axes.set_xlim(0, 100)
        axes.set_ylim(*_LIMITS)
    panels[selection.panels[0]].set_ylabel("accuracy")
    _finish(figure, _arm_styles(study, selection), output)


def _draw_names(
    study: Study, selection: Selection, scores: MeasureScores, measure: str, output: Path
) -> None:
    """Draw the accuracy of each named group, the arms side by side; crosses are single seeds."""
    figure, panels = _panels(study, selection, output)
    names = study.measures[measure].groups
    width = 0.8 / len(selection.arms)
    for panel, axes in panels.items():
        for number, arm in enumerate(selection.arms):
            places = np.arange(len(names)) + (number + 0.5) * width - 0.4
            report, colour = scores.pooled[panel, arm], study.text.arms[arm].colour
            heights = np.array([depth.accuracy for depth in report.depths])
            low = heights - [depth.low for depth in report.depths]
            high = [depth.high for depth in report.depths] - heights
            errors = np.maximum([low, high], 0)
            axes.bar(places, heights, width, color=colour, alpha=0.8, yerr=errors, capsize=2)
            for curves in scores.single:
                single = [depth.accuracy for depth in curves[panel, arm].depths]
                axes.plot(places, single, "x", color="black", markersize=3)
        axes.set_xticks(range(len(names)), names)
        axes.set_xlabel(study.measures[measure].axis)
        axes.set_ylim(0, _LIMITS[1])
    panels[selection.panels[0]].set_ylabel("accuracy")
    _finish(figure, _arm_styles(study, selection), output)


def draw_doses(study: Study, selection: Selection, scores: MeasureScores, output: Path) -> None:
    """Draw the worst group and the mean against the arms' doses, which are spaced evenly."""
    arms = [arm for arm in selection.arms if study.text.arms[arm].dose is not None]
    figure, panels = _panels(study, selection, output)
    for panel, axes in panels.items():
        for value, colour, _ in _DOSE_VALUES:
            _plot_doses(axes, [scores.right[panel, arm] for arm in arms], value, colour)
        axes.set_xticks(range(len(arms)), [f"{study.text.arms[arm].dose:g}" for arm in arms])
        axes.set_xlabel("dose (%)")
        axes.set_ylim(*_LIMITS)
    panels[selection.panels[0]].set_ylabel("accuracy")
    _finish(figure, [(colour, title) for _, colour, title in _DOSE_VALUES], output)


def draw_influence(
    study: Study, selection: Selection, curves: Mapping[Key, npt.NDArray[np.float64]], output: Path
) -> None:
    """Draw each token's influence on the last one, relative to the mean, on a logarithmic axis.

    Args:
        study: the study.
        selection: arms and panels.
        curves: of shape (seeds, tokens), by panel and arm.
        output: the picture.
    """
    figure, panels = _panels(study, selection, output)
    for panel, axes in panels.items():
        for arm in selection.arms:
            mean = curves[panel, arm].mean(axis=0)
            places = 100 * np.arange(len(mean)) / len(mean)
            axes.plot(places, mean, color=study.text.arms[arm].colour, linewidth=0.8)
        axes.set_yscale("log")
        axes.set_xlabel("position of the token in the context (%)")
    panels[selection.panels[0]].set_ylabel("influence on the last token / mean")
    _finish(figure, _arm_styles(study, selection), output)


def _panels(study: Study, selection: Selection, output: Path) -> tuple[Figure, dict[str, Any]]:
    """Return a figure with axes side by side, one for each panel of the study."""
    figure = new_figure(output, (max(5.2 * len(selection.panels), 6.5), 4.6))
    grid = figure.subplots(1, len(selection.panels), squeeze=False, sharey=True)
    panels = dict(zip(selection.panels, grid[0], strict=True))
    for panel, axes in panels.items():
        axes.grid(alpha=0.25)
        if len(study.text.panels) > 1:
            axes.set_title(study.text.panels[panel].title)
    return figure, panels


def _arm_styles(study: Study, selection: Selection) -> list[tuple[str, str]]:
    arms = [study.text.arms[arm] for arm in selection.arms]
    return [(arm.colour, arm.title) for arm in arms]


def _finish(figure: Figure, styles: list[tuple[str, str]], output: Path) -> None:
    """Write the figure with a legend of (colour, title) below its panels."""
    handles = [Line2D([], [], color=colour, linewidth=2, label=title) for colour, title in styles]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    save_figure(figure, output)


def _plot_doses(
    axes: Any, right: list[npt.NDArray[np.float64]], value: ValueName, colour: str
) -> None:
    places = range(len(right))
    for seed in range(len(right[0])):
        single = [float(value_of(arm[seed].mean(axis=0), value)) for arm in right]
        axes.plot(places, single, color=colour, linewidth=0.6, alpha=0.5)
    pooled = [float(value_of(arm.mean(axis=(0, 1)), value)) for arm in right]
    limits = [interval(value_of(resampled(arm), value)) for arm in right]
    axes.plot(places, pooled, color=colour, linewidth=2.0, marker="o", markersize=3)
    low, high = zip(*limits, strict=True)
    axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _plot(axes: Any, report: ProbeReport, colour: str, **options: Any) -> None:
    accuracies = [depth.accuracy for depth in report.depths]
    axes.plot(_centres(report), accuracies, color=colour, **options)


def _centres(report: ProbeReport) -> list[float]:
    return [50 * (depth.start + depth.end) for depth in report.depths]
