"""Scores on literal cases: spans with and without the published off-by-one, sets, nulls."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.score import Grouping, ProbeReport, score_predictions

Score = Callable[..., ProbeReport]


@pytest.fixture
def score(tmp_path: Path) -> Score:
    """Score code probes given as (position, set, prediction); the true answer is always "f"."""

    def run(cases: list[tuple], grouping: Grouping, **options) -> ProbeReport:
        labels, predictions = tmp_path / "labels.jsonl", tmp_path / "FILM" / "sample.jsonl"
        predictions.parent.mkdir(exist_ok=True)
        with labels.open("w") as label_file, predictions.open("w") as prediction_file:
            for position, set_id, prediction in cases:
                label = {"completion": "f", "position_id": position, "set_id": set_id}
                label_file.write(json.dumps(label) + "\n")
                prediction_file.write(json.dumps({"samples": [prediction]}) + "\n")
        return score_predictions(labels, predictions, grouping, task_name="code", **options)

    return run


def test_published_spans_leave_out_their_last_position(score: Score) -> None:
    """Positions 49 and 99 are the only wrong ones: the published script does not see them."""
    cases = [(n, 0, "no" if n in (49, 99) else "f") for n in range(100)]
    published = score(cases, Grouping(published=True))
    assert (published.average, published.gap, published.probes) == (1.0, 0.0, 98)
    every = score(cases, Grouping())
    assert every.average == pytest.approx(0.98)
    assert every.probes == 100
    assert [depth.probes for depth in every.depths] == [50, 50]


def test_a_first_position_counts_in_both_modes(score: Score) -> None:
    cases = [(n, 0, "no" if n in (0, 50) else "f") for n in range(100)]
    assert score(cases, Grouping(published=True)).average == pytest.approx(48 / 49)
    assert score(cases, Grouping()).average == pytest.approx(49 / 50)


def test_a_span_is_the_mean_of_its_sets_means(score: Score) -> None:
    """Set 0 has four probes, all right; set 1 has two, one right: .75, not 5 of 6."""
    cases = [(n, 0, "f") for n in range(4)] + [(0, 1, "f"), (1, 1, "no")]
    report = score(cases, Grouping(span=4))
    (depth,) = report.depths
    assert depth.accuracy == 0.75
    assert depth.deviation == 0.25  # population deviation of 1 and .5, as np.std gives it
    assert report.sets == 2
    assert (depth.start, depth.end) == (0.0, 1.0)


def test_average_and_gap_are_of_the_spans(score: Score) -> None:
    right = [5, 2, 0, 4]  # of 5 in each span
    cases = [(n, 0, "f" if n % 5 < right[n // 5] else "no") for n in range(20)]
    report = score(cases, Grouping(span=5))
    assert [depth.accuracy for depth in report.depths] == [1.0, 0.4, 0.0, 0.8]
    assert report.average == pytest.approx(0.55)
    assert report.gap == 1.0
    assert [(depth.start, depth.end) for depth in report.depths][1] == (0.25, 0.5)


def test_null_and_empty_predictions(score: Score) -> None:
    """Null is left out of sum and count; empty counts and is wrong."""
    report = score([(0, 0, "f"), (1, 0, None), (2, 0, "")], Grouping(span=3))
    assert (report.probes, report.nulls, report.average) == (2, 1, 0.5)
    with pytest.raises(InputError, match="nothing to score"):
        score([(0, 0, None)], Grouping())


def test_the_skip_list_counts_lines_from_zero(score: Score, tmp_path: Path) -> None:
    skip = tmp_path / "skip.json"
    skip.write_text("[1]")
    cases = [(0, 0, "f"), (1, 0, "no"), (2, 0, "f")]
    report = score(cases, Grouping(), skip_list=skip)
    assert (report.probes, report.skipped, report.average) == (2, 1, 1.0)
    for bad in ("[3]", "[-1]", '{"a": 1}', '["1"]'):
        skip.write_text(bad)
        with pytest.raises(InputError, match="line numbers from 0 to 2"):
            score(cases, Grouping(), skip_list=skip)


def test_bins_divide_contexts_of_any_length(tmp_path: Path) -> None:
    labels, predictions = tmp_path / "l.jsonl", tmp_path / "p.jsonl"
    places = [(0, 10), (4, 10), (5, 10), (9, 10), (0, 4), (1, 4), (2, 4), (3, 4)]
    labels.write_text(
        "\n".join(
            json.dumps({"completion": "f", "position_id": p, "units": u, "task": "code"})
            for p, u in places
        )
    )
    predictions.write_text(
        "\n".join(json.dumps({"sample": "f" if p / u < 0.5 else ""}) for p, u in places)
    )
    report = score_predictions(labels, predictions, Grouping(bins=2))
    assert [depth.accuracy for depth in report.depths] == [1.0, 0.0]
    assert [depth.probes for depth in report.depths] == [4, 4]


def test_bootstrap_intervals(score: Score) -> None:
    """Of one set of n probes with mean p, the interval is near p +- 1.96 sqrt(p (1 - p) / n)."""
    n = 400
    cases = [(k, 0, "f" if k % 4 == 0 else "no") for k in range(n)]
    report = score(cases, Grouping(span=n))
    (depth,) = report.depths
    half = 1.96 * np.sqrt(0.25 * 0.75 / n)
    assert depth.low == pytest.approx(0.25 - half, abs=0.012)
    assert depth.high == pytest.approx(0.25 + half, abs=0.012)
    assert report.average_interval == (depth.low, depth.high)
    assert report.gap_interval == (0.0, 0.0)  # one span has no gap
    sure = score([(k, 0, "f") for k in range(100)], Grouping())
    assert [(d.low, d.high) for d in sure.depths] == [(1.0, 1.0)] * 2
    assert score(cases, Grouping(span=n)) == report  # the same scores, the same intervals


def test_labels_and_predictions_as_published(tmp_path: Path) -> None:
    labels, predictions = tmp_path / "l.jsonl", tmp_path / "gpt4-turbo" / "p.jsonl"
    predictions.parent.mkdir()
    label = {"prompt": "…", "label": "Paris", "description": "a city.", "position_id": 749}
    labels.write_text(json.dumps(label | {"set_id": 0}))
    predictions.write_text(json.dumps({"sample": " It is a CITY in France"}))
    report = score_predictions(labels, predictions, Grouping(), task_name="database")
    assert (report.average, report.units, report.name) == (1.0, 750, "gpt4-turbo")
    assert report.context_tokens is None


@pytest.mark.parametrize(
    ("label", "prediction", "words"),
    [
        ({"position_id": 0}, {"samples": ["x"]}, "l.jsonl:1: field 'completion' is missing"),
        ({"completion": "f"}, {"samples": ["x"]}, "l.jsonl:1: field 'position_id' is missing"),
        (
            {"completion": "f", "position_id": "0"},
            {"samples": ["x"]},
            "'position_id' must be int, found '0'",
        ),
        (
            {"completion": "f", "position_id": 5, "units": 5},
            {"samples": ["x"]},
            "'position_id' is 5, outside the 5 units",
        ),
        ({"completion": "f", "position_id": 0}, {"text": "x"}, "'samples' or 'sample' is missing"),
        ({"completion": "f", "position_id": 0}, {"samples": []}, "'samples' must hold text"),
        ({"completion": "f", "position_id": 0}, {"sample": 3}, "'sample' must hold text, found 3"),
        (
            {"completion": "f", "position_id": 0},
            {"sample": "f", "answer_log_likelihood": -1.0},
            "p.jsonl:1: field 'answer_tokens' is missing",
        ),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, label: dict, prediction: dict, words: str) -> None:
    labels, predictions = tmp_path / "l.jsonl", tmp_path / "p.jsonl"
    labels.write_text(json.dumps(label))
    predictions.write_text(json.dumps(prediction))
    with pytest.raises(InputError, match=words):
        score_predictions(labels, predictions, Grouping(), task_name="code")


def test_bad_files_and_options(tmp_path: Path) -> None:
    labels, predictions = tmp_path / "l.jsonl", tmp_path / "p.jsonl"
    labels.write_text('{"completion": "f", "position_id": 0}\n' * 2)
    predictions.write_text('{"sample": "f"}\n')
    with pytest.raises(InputError, match=r"p.jsonl has 1 lines, .*l.jsonl has 2"):
        score_predictions(labels, predictions, Grouping(), task_name="code")
    predictions.write_text('{"sample": "f"}\n' * 2)
    with pytest.raises(InputError, match="name no task; give --task"):
        score_predictions(labels, predictions, Grouping())
    for bad, words in (
        ({"bins": 0}, "--bins 0"),
        ({"span": 0}, "--span 0"),
        ({"span": 1, "published": True}, "--span 1: give 2"),
        ({"bins": 4, "published": True}, "leave --bins out"),
    ):
        with pytest.raises(InputError, match=words):
            Grouping(**bad)
    labels.write_text('{"completion": "f", "position_id": 0, "task": "code"}\n' * 2)
    with pytest.raises(InputError, match="of task 'code', not --task document"):
        score_predictions(labels, predictions, Grouping(), task_name="document")
