"""Scores of a clone of the FILM repository: a small one of ours, and the real one where it is."""

import json
import os
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.reproduction import (
    Absent,
    Reproduced,
    reproduce,
    reproduction_table,
)

FILM = "FILM-7B"
CANDIDATES = ["bank", "library", "store", "mall", "town"]


def _write(path: Path, records: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Predictions of two models in the repository's places, with labels of most of them."""
    short = tmp_path / "short_tasks"
    _write(
        short / "prompts" / "csqa_0shot.jsonl",
        [{"prompt": "", "answer": "library", "candidates": CANDIDATES}] * 2,
    )
    _write(short / "results" / FILM / "sample_csqa_0shot.jsonl", [{"samples": ["B"]}] * 2)
    _write(
        short / "prompts" / "gsm8k_8shot.jsonl",
        [{"prompt": "", "completion": "The answer is 18."}] * 2,
    )
    _write(
        short / "results" / FILM / "sample_gsm8k_8shot.jsonl",
        [{"samples": ["The answer is 18."]}, {"samples": ["So the answer is 18."]}],
    )
    _write(short / "results" / FILM / "sample_math_4shot.jsonl", [{"samples": ["1"]}])
    long = tmp_path / "real_world_long"
    _write(
        long / "prompts" / "LongBench_output_32.jsonl",
        [
            {"prompt": "", "answers": ["cat"], "dataset": "hotpotqa", "all_classes": None},
            {"prompt": "", "answers": ["cow"], "dataset": "musique", "all_classes": None},
            {"prompt": "", "answers": ["dog"], "dataset": "hotpotqa", "all_classes": None},
        ],
    )
    for folder, field in ((FILM, "samples"), ("gpt4-turbo", "sample")):
        texts = ["the cat", "cow", None]
        _write(
            long / "results" / folder / "sample_LongBench_output_32.jsonl",
            [{field: [text] if field == "samples" else text} for text in texts],
        )
    probing = tmp_path / "VaLProbing" / "VaLProbing-32K"
    places = [0, 10, 49, 50, 60, 70]
    _write(
        probing / "code_backward_32k.jsonl",
        [{"prompt": "", "completion": "f", "position_id": place, "set_id": 0} for place in places],
    )
    (probing / "code_backward_32k_skip_list.json").write_text("[5]")
    # Position 49 is the last of its span, which FILM's script leaves out; line 5 is skipped.
    answers = ["f", "f", "no", "f", "no", "no"]
    _write(
        probing / "results" / FILM / "sample_code_backward_32k.jsonl",
        [{"samples": [text]} for text in answers],
    )
    return tmp_path


def test_each_figure_by_both_rules(clone: Path) -> None:
    entries = reproduce(clone)
    found = {
        (entry.model, entry.figure): entry for entry in entries if isinstance(entry, Reproduced)
    }
    scores = {key: (entry.film, entry.standard) for key, entry in found.items()}
    assert scores == {
        (FILM, "code average"): (75.0, pytest.approx(100 * (2 / 3 + 1 / 2) / 2)),
        (FILM, "code gap"): (50.0, pytest.approx(100 * (2 / 3 - 1 / 2))),
        (FILM, "hotpotqa"): (100.0, 100.0),  # a null prediction leaves sum and count
        (FILM, "musique"): (100.0, 100.0),
        ("GPT-4-Turbo", "hotpotqa"): (100.0, 100.0),
        ("GPT-4-Turbo", "musique"): (100.0, 100.0),
        (FILM, "csqa"): (100.0, 100.0),
        (FILM, "gsm8k"): (50.0, 100.0),
    }
    assert found[FILM, "gsm8k"].published == 44.5
    assert found["GPT-4-Turbo", "hotpotqa"].published is None
    absent = [entry for entry in entries if isinstance(entry, Absent)]
    assert [(entry.model, entry.figure) for entry in absent] == [(FILM, "math")]


def test_labels_that_the_clone_lacks_are_taken_from_a_folder(clone: Path, tmp_path: Path) -> None:
    _write(tmp_path / "labels" / "math.jsonl", [{"answer": "1"}])
    entries = reproduce(clone, tmp_path / "labels")
    (math,) = (entry for entry in entries if entry.figure == "math")
    assert isinstance(math, Reproduced)
    assert (math.film, math.standard) == (0.0, 0.0)  # "1" alone is no final answer


def test_a_difference_is_red(clone: Path) -> None:
    table = reproduction_table(reproduce(clone), "markdown")
    assert '| FILM-7B | gsm8k | 44.5 | <span style="color:red">**50.00**</span> |' in table
    assert "| GPT-4-Turbo | hotpotqa |  | 100.00 | 100.00 | 1 |" in table
    assert "- math (FILM-7B): no labels" in table
    near = Reproduced(FILM, "csqa", 75.3, 75.27, 75.41, 1)
    line = reproduction_table([near], "terminal").splitlines()[2]
    assert line == "| FILM-7B | csqa | 75.3 | 75.27 | \033[31m75.41\033[0m | 1 |"


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no labels and predictions .* clone https://"):
        reproduce(tmp_path)


def test_published_predictions_give_the_published_figures() -> None:
    """On a real clone, which FILM_REPO names (FILM_LABELS: a folder of labels that it lacks)."""
    if "FILM_REPO" not in os.environ:
        pytest.skip("FILM_REPO names no clone of github.com/microsoft/FILM")
    labels = os.environ.get("FILM_LABELS")
    entries = reproduce(Path(os.environ["FILM_REPO"]), Path(labels) if labels else None)
    scored = [entry for entry in entries if isinstance(entry, Reproduced)]
    assert {entry.figure for entry in scored} >= {"csqa"}
    for entry in scored:
        if entry.published is not None:
            assert entry.film == pytest.approx(entry.published, abs=0.1), entry
