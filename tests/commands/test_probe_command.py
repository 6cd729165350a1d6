"""``in2 probe`` as a user runs it: pieces to picture, resume, and bad input."""

import json
from pathlib import Path

import pytest

from tests.conftest import RunTool, assert_refused

LINES = [
    {"sentence": f"Here is piece {n} of mine, and then a few more words.", "piece": f"piece {n} of"}
    for n in range(200)
]


@pytest.fixture
def probes(tmp_path: Path, run_here: RunTool) -> Path:
    folder = tmp_path / "probes"
    folder.mkdir()
    (folder / "document_sentences.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    result = run_here(
        "probe",
        *("build", "--pieces", folder, "--output", folder, "--context-tokens", 600),
        *("--positions", 4, "--sets", 2),
    )
    assert result.returncode == 0, result.stderr
    assert "8 document probes" in result.stdout
    return folder / "document.jsonl"


def test_a_model_of_random_weights_finds_nothing(
    probes: Path, tiny_model: Path, tmp_path: Path, run_here: RunTool
) -> None:
    answers, report = tmp_path / "answers.jsonl", tmp_path / "report.json"
    generate = ("generate", "--model", tiny_model, "--probes", probes, "--output", answers)
    result = run_here("probe", *generate, "--max-new-tokens", 8)
    assert result.returncode == 0, result.stderr
    assert_refused(run_here("probe", *generate, "--max-new-tokens", 9), str(answers), "another run")
    result = run_here(
        "probe",
        *("score", "--labels", probes, "--predictions", answers, "--output", report),
        *("--bins", 2, "--name", "tiny"),
    )
    assert result.returncode == 0, result.stderr
    scores = json.loads(report.read_text())
    assert scores["average"] < 0.1
    assert all(-12 < depth["log_likelihood"] < -5 for depth in scores["depths"])
    picture, table = tmp_path / "curve.png", tmp_path / "table.md"
    result = run_here("probe", "plot", "--reports", report, "--output", picture)
    assert result.returncode == 0, result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    result = run_here("probe", "compare", "--reports", report, "--output", table)
    assert result.stdout == table.read_text()
    assert "| tiny | " in result.stdout


def test_bad_input(probes: Path, tiny_model: Path, tmp_path: Path, run_here: RunTool) -> None:
    output = tmp_path / "x.jsonl"
    generate = ("generate", "--probes", probes, "--output", output)
    assert_refused(run_here("probe", *generate, "--model", tmp_path), "no Hugging Face checkpoint")
    longer = tmp_path / "longer.jsonl"
    longer.write_text(json.dumps({"prompt": "word " * 4000, "completion": "x"}))
    generate = ("generate", "--probes", longer, "--output", output)
    assert_refused(
        run_here("probe", *generate, "--model", tiny_model), f"{longer}:1", "2048", "shorter"
    )
    assert not output.read_text()
    build = ("build", "--pieces", tmp_path, "--output", tmp_path / "others")
    assert_refused(run_here("probe", *build), "document_sentences.jsonl does not exist")
