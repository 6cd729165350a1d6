"""The probing tasks: what a unit of context is, what is asked of it, when an answer is right.

Three are VaL's; sources: arXiv 2404.16811 section 3; github.com/microsoft/FILM for question wording
(format facts, to the byte) and scoring rules. Two are ours: ``association``, where one sentence of
the document task gives way to a statement that shares no content word with the question, and
``facts``, statements with questions and short answers of one's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_in2.choices import as_field, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines

TaskName = Literal["document", "code", "database", "association", "facts"]


@dataclass(frozen=True)
class Unit:
    """One retrievable piece of context: its text, the piece that is quoted, the answer."""

    text: str
    piece: str
    answer: str


@dataclass(frozen=True)
class ProbeTask:
    """One task.

    ``title`` and ``units`` name it and its units in figures; ``question`` has the field {piece};
    ``is_right`` takes (answer, prediction) and returns a score from 0 to 1.
    """

    name: TaskName
    title: str
    units: str
    file: str
    separator: str
    question: str
    unit: Callable[[dict[str, Any]], Unit]
    is_right: Callable[[str, str], float]


def _document_unit(record: dict[str, Any]) -> Unit:
    return Unit(record["sentence"], record["piece"], record["sentence"])


def _code_unit(record: dict[str, Any]) -> Unit:
    name = record["function_name"]
    return Unit(f"def {name}:\n{record['function_define']}", record["piece"], name)


def _database_unit(record: dict[str, Any]) -> Unit:
    identity, label, description = record["id"], record["label"], record["dcpt"]
    text = f"<id: {identity}, label: {label}, description: {description}>"
    return Unit(text, identity, f"{label}\n{description}")


def _fact_unit(record: dict[str, Any]) -> Unit:
    return Unit(record["statement"], record["question"], record["answer"])


def word_recall(answer: str, prediction: str) -> float:
    """Share of the answer's distinct lower-cased words that the prediction holds."""
    wanted = set(answer.lower().split())
    return len(wanted & set(prediction.lower().split())) / len(wanted) if wanted else 0.0


def name_found(answer: str, prediction: str) -> float:
    """1 where the prediction holds the name asked for, its case kept."""
    return float(bool(answer.strip(".")) and answer.strip(".") in prediction)


def label_or_description_found(answer: str, prediction: str) -> float:
    """1 where the lower-cased prediction holds the label or the description."""
    parts = [part.strip(".").lower() for part in answer.split("\n")]
    return float(any(part and part in prediction.lower() for part in parts))


TASKS: dict[str, ProbeTask] = {
    task.name: task
    for task in (
        ProbeTask(
            name="document",
            title="Document Sentence Retrieval (Bi-Direction)",
            units="Sentences",
            file="document_sentences.jsonl",
            separator="\n",
            question='In above context, which sentence contains the piece "{piece}"?',
            unit=_document_unit,
            is_right=word_recall,
        ),
        ProbeTask(
            name="code",
            title="Code Function Retrieval (Backward)",
            units="Functions",
            file="code_functions.jsonl",
            separator="\n\n",
            question='In above context, which function contains the code snip "{piece}" ?',
            unit=_code_unit,
            is_right=name_found,
        ),
        ProbeTask(
            name="database",
            title="Database Entity Retrieval (Forward)",
            units="Entities",
            file="database_entities.jsonl",
            separator="\n",
            question=(
                "In above context , what is the label and description for the query where the id "
                "is {piece} ?"
            ),
            unit=_database_unit,
            is_right=label_or_description_found,
        ),
        ProbeTask(
            name="association",
            title="Association Retrieval (No Shared Words)",
            units="Sentences",
            file="document_sentences.jsonl",
            separator="\n",
            question="{piece}",
            unit=_document_unit,
            is_right=name_found,
        ),
        ProbeTask(
            name="facts",
            title="Fact Retrieval",
            units="Facts",
            file="facts.jsonl",
            separator="\n",
            question="{piece}",
            unit=_fact_unit,
            is_right=word_recall,
        ),
    )
}


def find_task(name: str) -> ProbeTask:
    """Return a task by name.

    Raises:
        InputError: there is none.
    """
    if name not in TASKS:
        raise wrong_choice(as_field("task", name), tuple(TASKS))
    return TASKS[name]


def read_units(folder: Path, task: ProbeTask) -> list[Unit]:
    """Read a task's units, those whose quoted piece occurs in another unit's too left out.

    Raises:
        InputError: the file is missing or a line lacks a field.
    """
    units: dict[str, Unit] = {}
    ambiguous: set[str] = set()
    for where, record in read_json_lines(folder / task.file):
        try:
            unit = task.unit(record)
        except KeyError as error:
            raise InputError(f"{where}: field {error} is missing") from error
        if unit.piece in units:
            ambiguous.add(unit.piece)
        units[unit.piece] = unit
    return [unit for piece, unit in units.items() if piece not in ambiguous]
