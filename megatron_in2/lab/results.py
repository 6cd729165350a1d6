"""Tables and figures of a study, and what came of its expected directions."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from megatron_in2.files import atomic_file
from megatron_in2.lab.config import Selection
from megatron_in2.lab.corrections import CORRECTION_HEADS, count_corrections
from megatron_in2.lab.expected import Compared, compare_all
from megatron_in2.lab.figures import draw_doses, draw_groups, draw_influence
from megatron_in2.lab.scores import Key, MeasureScores, parts_of, read_influence, score_measure
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import Study

SUFFIXES = (".png", ".svg")


def report_study(study: Study, selection: Selection, seeds: Sequence[SeedFolder]) -> str:
    """Score the arms over the finished seeds; write reports, figures and table.md.

    Args:
        study: the study.
        selection: arms, panels, and the folder that is written to.
        seeds: finished ones.

    Returns:
        The tables, Markdown.
    """
    scores = {name: score_measure(study, selection, seeds, name) for name in study.measures}
    for name, each in scores.items():
        for suffix in SUFFIXES:
            draw_groups(study, selection, each, name, selection.home / f"{name}{suffix}")
            if study.text.figure == "dose":
                draw_doses(study, selection, each, selection.home / f"{name}_dose{suffix}")
    tables = [arm_table(study, name, each) for name, each in scores.items()]
    tables += [
        name_table(study, name, each) for name, each in scores.items() if study.measures[name].named
    ]
    tables += correction_tables(study, selection, seeds)
    if study.text.influence:
        curves = {
            (panel, arm): read_influence([seed.influence(panel, arm) for seed in seeds])
            for panel in selection.panels
            for arm in selection.arms
        }
        for suffix in SUFFIXES:
            draw_influence(study, selection, curves, selection.home / f"influence{suffix}")
        tables.append(influence_table(study, curves))
    if compared := compare_all(study, scores, selection.panels):
        tables.append(expected_table(study, compared, len(seeds)))
    text = "\n\n".join(tables)
    with atomic_file(selection.home / "table.md") as stream:
        stream.write(f"{study.text.question}\n\n{text}\n\n{_caption(study, scores, len(seeds))}\n")
    return text


def arm_table(study: Study, measure: str, scores: MeasureScores) -> str:
    """Return mean, worst group and max - min of each arm, with bootstrap intervals."""
    heads = [study.measures[measure].title, "mean", "worst group", "max - min", "probes"]
    cells = {}
    for key, report in scores.pooled.items():
        worst = min(report.depths, key=lambda depth: depth.accuracy)
        cells[key] = [
            f"{report.average:.3f} ({_interval(report.average_interval)})",
            f"{worst.accuracy:.3f} ({_interval((worst.low, worst.high))})",
            f"{report.gap:.3f} ({_interval(report.gap_interval)})",
            f"{report.probes:,}",
        ]
    return _table_of_arms(study, heads, cells)


def name_table(study: Study, measure: str, scores: MeasureScores) -> str:
    """Return each arm's accuracy in each named group."""
    heads = [study.measures[measure].title, *study.measures[measure].groups]
    cells = {
        key: [f"{each.accuracy:.3f} ({_interval((each.low, each.high))})" for each in report.depths]
        for key, report in scores.pooled.items()
    }
    return _table_of_arms(study, heads, cells)


def correction_tables(study: Study, selection: Selection, seeds: Sequence[SeedFolder]) -> list[str]:
    """Return, for measures whose replies may correct themselves, how often they do, and spoil."""
    keys = list(itertools.product(selection.panels, selection.arms))
    return [
        _table_of_arms(
            study,
            ["a model's own attempts", *CORRECTION_HEADS],
            {key: count_corrections(study, seeds, *key, measure).cells() for key in keys},
        )
        for measure, each in study.measures.items()
        if each.corrects
    ]


def influence_table(study: Study, curves: Mapping[Key, npt.NDArray[np.float64]]) -> str:
    """Return how much the parts of a context influence the last token, over all seeds."""
    heads = ["influence of a token on the last one, relative to the mean"]
    heads += ["first 16th", "middle half", "last 16th", "the last token itself"]
    cells = {
        key: [f"{part:.2f}" for part in parts_of(curve.mean(axis=0))]
        for key, curve in curves.items()
    }
    return f"Expected: {study.text.influence.strip()}\n\n{_table_of_arms(study, heads, cells)}"


def expected_table(study: Study, compared: Sequence[Compared], seeds: int) -> str:
    """Return what was expected before the study ran, and what came of it."""
    lines = [["expected", "seen", "difference", f"seeds that agree, of {seeds}", "answer"]]
    for each in compared:
        expected, arms = each.comparison, study.text.arms
        margin = f"by more than {expected.by:g}" if expected.by else ""
        if expected.relation == "level":
            margin = f"within {expected.by:g}"
        relation = f"{expected.relation} {arms[expected.second].title} {margin}".rstrip()
        where = f", {study.text.panels[each.panel].title}" if len(study.text.panels) > 1 else ""
        lines.append(
            [
                f"{expected.value} of {expected.measure}{where}: {arms[expected.first].title} "
                f"{relation}",
                f"{each.first:.3f}, {each.second:.3f}",
                f"{each.first - each.second:+.3f} ({each.low:+.2f} to {each.high:+.2f})",
                str(each.seeds),
                each.answer,
            ]
        )
    return _markdown(lines)


def _caption(study: Study, scores: Mapping[str, MeasureScores], seeds: int) -> str:
    probes = {
        name: max(depth.probes for report in each.pooled.values() for depth in report.depths)
        for name, each in scores.items()
    }
    counted = ", ".join(f"{count} of {name}" for name, count in probes.items())
    return (
        f"Thick lines: mean of {seeds} seed{'s' * (seeds != 1)}; thin lines: single seeds; bands "
        f"and brackets: 95 % bootstrap over the probes of each point ({counted}). Held equal: "
        f"{study.text.held_equal.strip()} Not shown: {study.text.not_shown.strip()}"
    )


def _table_of_arms(study: Study, heads: Sequence[str], cells: Mapping[Key, Sequence[str]]) -> str:
    """Return a table with a line for each arm; where there are several panels, they are named."""
    several = len(study.text.panels) > 1
    lines = [["panel"] * several + [*heads]]
    for (panel, arm), values in cells.items():
        names = [study.text.panels[panel].title] * several + [study.text.arms[arm].title]
        lines.append([*names, *values])
    return _markdown(lines)


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = lines
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _interval(limits: tuple[float, float]) -> str:
    return f"{limits[0]:.2f} to {limits[1]:.2f}"
