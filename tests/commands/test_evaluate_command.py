"""``in2 evaluate`` as a user runs it: files of predictions, scores kept together, the report."""

import json
from pathlib import Path

from tests.conftest import RunTool, assert_refused

CANDIDATES = ["bank", "library", "store", "mall", "town"]


def _write(path: Path, records: list[dict]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)))
    return path


def test_files_of_predictions_to_the_report(tmp_path: Path, run_here: RunTool) -> None:
    labels = _write(tmp_path / "csqa.jsonl", [{"answer": "library", "candidates": CANDIDATES}] * 4)
    answers = {"mine": [" B: library", "C", None, "A"], "base": ["B", "B", "B", "A"]}
    for model, texts in answers.items():
        predictions = _write(tmp_path / model / "x.jsonl", [{"samples": [t]} for t in texts])
        scores = tmp_path / f"{model}.json"
        result = run_here(
            "evaluate",
            *("score", "--task", "csqa", "--labels", labels),
            *("--predictions", predictions, "--output", scores),
        )
        assert result.returncode == 0, result.stderr
    assert "csqa: 75.00 over 4 predictions" in result.stdout
    stories = _write(tmp_path / "long.jsonl", [{"answers": ["a cat", "dog"]}] * 2)
    predictions = _write(tmp_path / "mine" / "long.jsonl", [{"sample": "Cat."}, {"sample": "cow"}])
    result = run_here(
        "evaluate",
        *("score", "--task", "narrativeqa", "--labels", stories),
        *("--predictions", predictions, "--output", tmp_path / "mine.json"),
    )
    assert "narrativeqa: 50.00 over 2" in result.stdout
    report = tmp_path / "report.md"
    result = run_here(
        "evaluate",
        *("report", "--scores", tmp_path / "mine.json", "--base", tmp_path / "base.json"),
        *("--output", report),
    )
    assert result.returncode == 0, result.stderr
    lines = report.read_text().splitlines()
    assert lines[2] == ("| narrativeqa | 50.0 |  |  | 23.5 | 26.9 | +3.4 |")
    # A null prediction is left out of sum and count: 1 of 3, not of 4.
    assert lines[3] == (
        '| csqa | 33.3 | 75.0 | <span style="color:red">**-41.7**</span> | 70.0 | 75.3 | +5.3 |'
    )


def test_each_data_set_of_a_file_is_scored_by_itself(tmp_path: Path, run_here: RunTool) -> None:
    labels = _write(
        tmp_path / "l.jsonl",
        [
            {"answers": ["a cat"], "dataset": "hotpotqa"},
            {"answers": ["Date"], "dataset": "trec", "all_classes": ["Date", "Food"]},
            {"answers": ["a dog"], "dataset": "hotpotqa"},
            {"completion": "The answer is 2.", "dataset": "gsm8k"},
        ],
    )
    texts = ["Cat.", "Date\nFood", "cow", "So the answer is 2."]
    predictions = _write(tmp_path / "m" / "p.jsonl", [{"samples": [text]} for text in texts])
    files = ("--labels", labels, "--predictions", predictions)
    result = run_here("evaluate", "score", *files, "--output", tmp_path / "m.json")
    assert result.stdout.splitlines() == [
        "hotpotqa: 50.00 over 2 predictions",
        "trec: 100.00 over 1 predictions",
        "gsm8k: 100.00 over 1 predictions",
    ]
    assert set(json.loads((tmp_path / "m.json").read_text())["scores"]) == {
        "hotpotqa",
        "trec",
        "gsm8k",
    }
    result = run_here("evaluate", "score", *files, "--scorer", "film")
    assert "gsm8k: 0.00" in result.stdout  # FILM counts a capital "The answer is" only
    mixed = run_here("evaluate", "score", *files, "--task", "hotpotqa")
    assert_refused(mixed, f"{labels}:2", "'trec', not 'hotpotqa'", "leave --task out")


def test_bad_input(tmp_path: Path, run_here: RunTool) -> None:
    labels = _write(tmp_path / "l.jsonl", [{"answer": "x", "candidates": CANDIDATES}])
    predictions = _write(tmp_path / "p.jsonl", [{"samples": ["A"]}])
    score = ("score", "--labels", labels, "--predictions", predictions)
    assert_refused(run_here("evaluate", *score, "--task", "csqa"), f"{labels}:1", "candidates")
    assert_refused(run_here("evaluate", *score, "--task", "mmlu"), "likelihoods", "run --tasks")
    _write(labels, [{"answers": "x"}])
    assert_refused(run_here("evaluate", *score, "--task", "qasper"), f"{labels}:1", "'answers'")
    _write(labels, [{"answer": "x"}] * 2)
    assert_refused(run_here("evaluate", *score, "--task", "qasper"), "has 1 lines", "has 2")
    _write(tmp_path / "s.json", [{"model": "x"}])
    report = ("report", "--scores", tmp_path / "s.json", "--output", tmp_path / "r.md")
    assert_refused(run_here("evaluate", *report), "s.json holds no scores")
