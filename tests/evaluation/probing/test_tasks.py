"""The published wording to the byte, and the published scoring rules on literal cases."""

import json
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.tasks import (
    TASKS,
    find_task,
    label_or_description_found,
    name_found,
    read_units,
    word_recall,
)


def test_question_wordings_to_the_byte() -> None:
    asked = {name: task.question.format(piece="X {y} z") for name, task in TASKS.items()}
    assert asked["document"] == 'In above context, which sentence contains the piece "X {y} z"?'
    assert asked["code"] == 'In above context, which function contains the code snip "X {y} z" ?'
    assert asked["database"] == (
        "In above context , what is the label and description for the query where the id is "
        "X {y} z ?"
    )


@pytest.mark.parametrize(
    ("answer", "prediction", "score"),
    [
        ("The cat sat.", " The cat sat.", 1.0),
        ("The cat sat.", "the CAT SAT.", 1.0),  # case does not count
        ("The cat sat.", "The cat sat", 2 / 3),  # punctuation clings to its word
        ("The cat sat.", "sat. cat The The", 1.0),  # neither order nor repetition counts
        ("the the cat", "the", 1 / 2),  # distinct words of the answer
        ("The cat sat.", "", 0.0),
        ("a\tb\nc", "c b", 2 / 3),  # any white space parts words
    ],
)
def test_word_recall(answer: str, prediction: str, score: float) -> None:
    assert word_recall(answer, prediction) == score


@pytest.mark.parametrize(
    ("answer", "prediction", "score"),
    [
        ("run_job", " run_job", 1.0),
        ("run_job", "The function is `run_job`.", 1.0),
        ("run_job", "Run_Job", 0.0),  # case counts
        ("run_job", "run_jobs", 1.0),  # found inside a longer name: as published
        ("run_job.", "run_job", 1.0),  # a full stop is stripped from the answer ...
        ("run", "r.un", 0.0),  # ... but not from the prediction
        ("run_job", "", 0.0),
    ],
)
def test_name_found(answer: str, prediction: str, score: float) -> None:
    assert name_found(answer, prediction) == score


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ('The label is "PLACE DE LA TRINITY IN PARIS".', 1.0),
        ("a painting by albert marquet", 1.0),  # either suffices, its full stop stripped
        ("Place de la Trinity", 0.0),  # a part does not
        ("", 0.0),
    ],
)
def test_label_or_description_found(prediction: str, score: float) -> None:
    answer = "Place de la Trinity in Paris\nPainting by Albert Marquet."
    assert label_or_description_found(answer, prediction) == score


def test_an_empty_description_is_never_found() -> None:
    assert label_or_description_found("Paris\n", "Rome") == 0.0


def test_units_hold_what_the_published_pieces_say(tmp_path: Path) -> None:
    (tmp_path / "code_functions.jsonl").write_text(
        json.dumps({"function_name": "f", "function_define": "    a\n    b\n    c", "piece": "b"})
    )
    (unit,) = read_units(tmp_path, find_task("code"))
    assert (unit.text, unit.piece, unit.answer) == ("def f:\n    a\n    b\n    c", "b", "f")
    (tmp_path / "database_entities.jsonl").write_text(
        json.dumps({"id": "Q1", "label": "universe", "dcpt": "all of space"})
    )
    (unit,) = read_units(tmp_path, find_task("database"))
    assert unit.text == "<id: Q1, label: universe, description: all of space>"
    assert (unit.piece, unit.answer) == ("Q1", "universe\nall of space")


def test_pieces_quoted_twice_are_left_out(tmp_path: Path) -> None:
    lines = [{"sentence": f"{n} the same piece", "piece": "the same piece"} for n in (1, 2)]
    lines.append({"sentence": "one more of its own", "piece": "of its own"})
    path = tmp_path / "document_sentences.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    assert [unit.piece for unit in read_units(tmp_path, find_task("document"))] == ["of its own"]


def test_bad_pieces_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="task='prose': use document, code, database"):
        find_task("prose")
    with pytest.raises(InputError, match="does not exist"):
        read_units(tmp_path, find_task("document"))
    (tmp_path / "document_sentences.jsonl").write_text('{"sentence": "no piece"}')
    with pytest.raises(InputError, match=r"jsonl:1: field 'piece' is missing"):
        read_units(tmp_path, find_task("document"))
