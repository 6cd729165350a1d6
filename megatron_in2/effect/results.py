"""Scores, table and figure: accuracy by evidence position, pooled over the seeds."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from megatron_in2.effect.arms import ARMS, Arm, ArmName, ThetaName
from megatron_in2.effect.materials import PROBE_BINS
from megatron_in2.evaluation.probing.plot import new_figure, save_figure
from megatron_in2.evaluation.probing.report import write_probe_report
from megatron_in2.evaluation.probing.score import Grouping, ProbeReport, score_predictions
from megatron_in2.files import atomic_file, read_json_lines

Key = tuple[ThetaName, ArmName]
Curves = dict[Key, ProbeReport]

CAPTION = (
    "Accuracy of greedy answers by the position of the evidence in a context of 512 tokens. "
    "Thick lines: mean of {seeds}; thin lines: single seeds; bands: 95 % bootstrap over the "
    "{probes} probes of each point. The model has 0.1 M parameters and is trained on made-up "
    "facts. The figure shows that the placement of evidence in the training data alone decides "
    "which positions a model can use, and that few IN2 steps fix a model that has seen evidence "
    "at the ends only. It does not show how large this effect is in a 7B model."
)


def report_results(
    seeds: list[Path], home: Path, thetas: Sequence[ThetaName], arms: Sequence[ArmName]
) -> str:
    """Score the arms over the finished seeds; write reports, table.md and figure.png / .svg.

    Args:
        seeds: folders of finished seeds.
        home: folder for ``scores/``, ``table.md`` and the figures.
        thetas: panels of the figure.
        arms: curves of each panel.

    Returns:
        The table, Markdown.
    """
    keys = list(itertools.product(thetas, arms))
    pooled = _pooled_curves(seeds, home, keys)
    single = [_curves(seed / "probes.jsonl", seed, keys) for seed in seeds]
    for suffix in (".png", ".svg"):
        _draw(pooled, single, home / f"figure{suffix}")
    table = as_table(pooled)
    with atomic_file(home / "table.md") as stream:
        stream.write(f"{table}\n{_caption(pooled)}\n")
    return table


def as_table(curves: Curves) -> str:
    """Return mean, worst bin and max - min of each curve, with bootstrap intervals, as Markdown."""
    lines = [
        "| RoPE theta | arm | mean | worst bin | max - min | probes |",
        "|---|---|---|---|---|---|",
    ]
    for (theta, arm), report in curves.items():
        worst = min(report.depths, key=lambda depth: depth.accuracy)
        lines.append(
            f"| {theta} | {ARMS[arm].title} "
            f"| {report.average:.3f} ({_interval(report.average_interval)}) "
            f"| {worst.accuracy:.3f} ({_interval((worst.low, worst.high))}) "
            f"| {report.gap:.3f} ({_interval(report.gap_interval)}) | {report.probes:,} |"
        )
    return "\n".join(lines)


def _interval(limits: tuple[float, float]) -> str:
    return f"{limits[0]:.2f} to {limits[1]:.2f}"


def _pooled_curves(seeds: list[Path], home: Path, keys: list[Key]) -> Curves:
    """Score all seeds together, each as one set, so that intervals resample within seeds."""
    labels = home / "scores" / "probes.jsonl"
    with atomic_file(labels) as stream:
        for number, seed in enumerate(seeds):
            for _, probe in read_json_lines(seed / "probes.jsonl"):
                stream.write(json.dumps({**probe, "set_id": number}) + "\n")
    for theta, arm in keys:
        with atomic_file(_predictions(home / "scores", theta, arm)) as stream:
            for seed in seeds:
                stream.write(_predictions(seed, theta, arm).read_text(encoding="utf-8"))
    curves = _curves(labels, home / "scores", keys)
    for (theta, arm), report in curves.items():
        write_probe_report(report, home / "scores" / theta / arm / "report.json")
    return curves


def _predictions(folder: Path, theta: str, arm: str) -> Path:
    return folder / theta / arm / "predictions" / "facts.jsonl"


def _curves(labels: Path, folder: Path, keys: list[Key]) -> Curves:
    bins = Grouping(bins=PROBE_BINS)
    return {
        (theta, arm): score_predictions(
            labels, _predictions(folder, theta, arm), bins, name=f"{arm}, theta {theta}"
        )
        for theta, arm in keys
    }


def _caption(curves: Curves) -> str:
    report = next(iter(curves.values()))
    seeds = f"{report.sets} seeds" if report.sets > 1 else "1 seed"
    return CAPTION.format(seeds=seeds, probes=report.probes // len(report.depths))


def _draw(pooled: Curves, single: list[Curves], output: Path) -> None:
    thetas = list(dict.fromkeys(theta for theta, _ in pooled))
    figure = new_figure(output, (5.2 * len(thetas), 4.6))
    grid = figure.subplots(1, len(thetas), squeeze=False, sharey=True)
    panels = dict(zip(thetas, grid[0], strict=True))
    for (theta, arm), report in pooled.items():
        axes, style = panels[theta], ARMS[arm]
        for curves in single:
            _plot(axes, curves[theta, arm], style, linewidth=0.6, alpha=0.5)
        _plot(axes, report, style, linewidth=2.0, marker="o", markersize=3)
        axes.fill_between(
            _centres(report),
            [depth.low for depth in report.depths],
            [depth.high for depth in report.depths],
            color=style.colour,
            alpha=0.15,
            linewidth=0,
        )
    for theta, axes in panels.items():
        axes.set_title(f"RoPE theta {theta}")
        axes.set_xlabel("evidence position in the context (%)")
        axes.set_xlim(0, 100)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.25)
    panels[thetas[0]].set_ylabel("accuracy")
    handles = [
        Line2D([], [], color=ARMS[arm].colour, linewidth=2, label=ARMS[arm].title)
        for arm in dict.fromkeys(arm for _, arm in pooled)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)
    save_figure(figure, output)


def _plot(axes: Any, report: ProbeReport, style: Arm, **options: Any) -> None:
    accuracies = [depth.accuracy for depth in report.depths]
    axes.plot(_centres(report), accuracies, color=style.colour, **options)


def _centres(report: ProbeReport) -> list[float]:
    return [50 * (depth.start + depth.end) for depth in report.depths]
