"""Reads label and prediction files, line by line against each other, in the published forms."""

from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines

Line = tuple[str, dict[str, Any]]  # ("FILE:LINE", object)


def read_pairs(labels: Path, predictions: Path) -> list[tuple[Line, Line]]:
    """Pair each label with the prediction on the same line.

    Raises:
        InputError: the files differ in length, or are empty.
    """
    expected, answers = list(read_json_lines(labels)), list(read_json_lines(predictions))
    if len(expected) != len(answers) or not expected:
        raise InputError(
            f"{predictions} has {len(answers)} lines, {labels} has {len(expected)}: they must "
            "answer each other line by line"
        )
    return list(zip(expected, answers, strict=True))


def prediction_text(line: Line) -> str | None:
    """Return a prediction: ``samples`` (a list, its first) or ``sample``; None for a null one.

    A null prediction is what an endpoint gave no text for. Every score of this package leaves it
    out of sum and count, as the published evaluation does, and reports how many there were.

    Raises:
        InputError: the line holds neither field, or not text.
    """
    where, record = line
    for name in ("samples", "sample"):
        if name in record:
            value = record[name]
            if name == "samples" and isinstance(value, list) and value:
                value = value[0]
            if value is None or isinstance(value, str):
                return value
            raise InputError(f"{where}: field {name!r} must hold text, found {value!r:.60}")
    raise InputError(f"{where}: field 'samples' or 'sample' is missing")


def field(line: Line, name: str, kind: type) -> Any:
    """Return a field of a line, of the kind asked for.

    Raises:
        InputError: it is missing or of another kind.
    """
    where, record = line
    if name not in record:
        raise InputError(f"{where}: field {name!r} is missing")
    value = record[name]
    if isinstance(value, bool) or not isinstance(value, kind):
        raise InputError(f"{where}: field {name!r} must be {kind.__name__}, found {value!r:.60}")
    return value
