"""Scores of a study's arms: curves pooled over the seeds, what each probe got, and influence."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_in2.evaluation.probing.report import write_probe_report
from megatron_in2.evaluation.probing.score import Grouping, ProbeReport, score_predictions
from megatron_in2.evaluation.probing.tasks import find_task
from megatron_in2.files import atomic_file, read_json, read_json_lines
from megatron_in2.lab.config import Selection
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import Study

Key = tuple[str, str]  # panel, arm


@dataclass(frozen=True)
class MeasureScores:
    """What all arms got on one measure.

    Attributes:
        pooled: curve over all seeds, by panel and arm.
        single: the same for each seed alone.
        right: score of each probe, float64 of shape (seeds, contexts, groups).
    """

    pooled: dict[Key, ProbeReport]
    single: list[dict[Key, ProbeReport]]
    right: dict[Key, npt.NDArray[np.float64]]


def score_measure(
    study: Study, selection: Selection, seeds: Sequence[SeedFolder], measure: str
) -> MeasureScores:
    """Score all arms on one measure and write the pooled reports of the probing tool.

    Args:
        study: the study.
        selection: arms, panels and the study's folder, for ``scores/``.
        seeds: finished ones.
        measure: its name.
    """
    keys = [(panel, arm) for panel in selection.panels for arm in selection.arms]
    groups = len(study.measures[measure].groups)
    home = selection.home / "scores" / measure
    labels = home / "probes.jsonl"
    with atomic_file(labels) as stream:
        for number, seed in enumerate(seeds):
            for _, probe in read_json_lines(seed.probes(measure)):
                stream.write(json.dumps({**probe, "set_id": number}) + "\n")
    pooled, right = {}, {}
    for panel, arm in keys:
        answers = home / panel / arm / "predictions.jsonl"
        with atomic_file(answers) as stream:
            for seed in seeds:
                stream.write(seed.predictions(panel, arm, measure).read_text(encoding="utf-8"))
        pooled[panel, arm] = score_predictions(labels, answers, Grouping(bins=groups), name=arm)
        write_probe_report(pooled[panel, arm], answers.with_name("report.json"))
        right[panel, arm] = _right(labels, answers).reshape(len(seeds), -1, groups)
    single = [
        {
            (panel, arm): score_predictions(
                seed.probes(measure),
                seed.predictions(panel, arm, measure),
                Grouping(bins=groups),
                name=arm,
            )
            for panel, arm in keys
        }
        for seed in seeds
    ]
    return MeasureScores(pooled, single, right)


def _right(labels: Path, answers: Path) -> npt.NDArray[np.float64]:
    """Return each probe's score in the order of the file, which is by seed, context and group."""
    pairs = zip(read_json_lines(labels), read_json_lines(answers), strict=True)
    return np.array(
        [
            find_task(label["task"]).is_right(label["completion"], answer["samples"][0])
            for (_, label), (_, answer) in pairs
        ]
    )


def read_influence(paths: Sequence[Path]) -> npt.NDArray[np.float64]:
    """Return curves of shape (files, tokens), each relative to its mean over the tokens."""
    curves = np.array([read_json(path) for path in paths])
    relative: npt.NDArray[np.float64] = curves / curves.mean(axis=1, keepdims=True)
    return relative


def parts_of(curve: npt.NDArray[np.float64]) -> tuple[float, float, float, float]:
    """Return a token's mean influence in the first 16th, the middle half and the last 16th.

    The last one without the last token, which the residual stream carries there; that token's is
    the fourth value.
    """
    tokens = len(curve)
    edge, quarter = tokens // 16, tokens // 4
    means = (curve[:edge], curve[quarter:-quarter], curve[-edge:-1], curve[-1:])
    first, middle, before_last, last = (float(part.mean()) for part in means)
    return first, middle, before_last, last
