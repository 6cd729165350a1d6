"""Reads samples in their four forms (text, chat, parts, recipe) and reduces them to parts."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines
from megatron_in2.records import JoinedPart, Part, Sample, slot_position
from megatron_in2.templates import InstructionTemplate

FORMS = ("parts", "messages", "segments", "question")  # the field that tells each form


def read_samples(path: Path, template: InstructionTemplate) -> Iterator[tuple[str, Sample]]:
    """Yield (``FILE:LINE``, sample) for every line of a samples file.

    Raises:
        InputError: a line is not a sample; the message names file, line, field and value.
    """
    for where, record in read_json_lines(path):
        form = next((field for field in FORMS if field in record), None)
        if form is None:
            raise InputError(f"{where}: not a sample: none of the fields {', '.join(FORMS)}")
        fields = _Fields(record, where)
        yield where, _READERS[form](fields, template, path.parent)


class _Fields:
    """Typed access to one JSON object, whose errors name line, field and value."""

    def __init__(self, record: dict[str, Any], where: str) -> None:
        self._record = record
        self.where = where

    def get(self, name: str, kind: type, required: bool = True) -> Any:
        value = self._record.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise InputError(
                f"{self.where}: field {name!r} must be {kind.__name__}, found {value!r:.60}"
            )
        return value

    def text(self, name: str) -> str:
        value: str = self.get(name, str)
        if not value.strip():
            raise InputError(f"{self.where}: field {name!r} is empty")
        return value

    def objects(self, name: str) -> list["_Fields"]:
        values = self.get(name, list)
        if not values or not all(isinstance(value, dict) for value in values):
            raise InputError(f"{self.where}: field {name!r} must be a list of objects")
        return [_Fields(value, f"{self.where}: {name}[{i}]") for i, value in enumerate(values)]

    def integers(self, name: str) -> tuple[int, ...]:
        values = self.get(name, list)
        if not values or not all(type(value) is int and value >= 0 for value in values):
            raise InputError(f"{self.where}: field {name!r} must list whole numbers from 0")
        return tuple(values)


def _text_sample(fields: _Fields, template: InstructionTemplate, folder: Path) -> Sample:
    context = fields.get("context", str, required=False)
    spans = fields.get("evidence", list, required=False)
    position = None
    if context and spans:
        try:
            start, end = spans[0]
            position = min(max((start + end) / 2 / len(context), 0.0), 1.0)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{fields.where}: field 'evidence' must list [start, end] pairs"
            ) from error
    return Sample(
        id=fields.text("id"),
        kind=fields.text("kind"),
        parts=(
            Part(template.prompt(fields.text("question"), context), learn=False),
            Part(fields.text("answer"), learn=True, ends_turn=True),
        ),
        evidence_position=position,
    )


def _chat_sample(fields: _Fields, template: InstructionTemplate, folder: Path) -> Sample:
    parts: list[Part] = []
    system = ""
    expected = "user"
    for message in fields.objects("messages"):
        role, content = message.text("role"), message.text("content")
        if role == "system" and not parts and not system:
            system = f"{content}\n\n"
        elif role != expected:
            raise InputError(f"{message.where}: role {role!r} where {expected!r} must stand")
        elif role == "user":
            parts.append(Part(template.turn(system + content), learn=False))
            system, expected = "", "assistant"
        else:
            learn = message.get("train", bool, required=False)
            parts.append(Part(content, learn=learn is not False, ends_turn=True))
            expected = "user"
    if expected != "user" or not parts:
        raise InputError(f"{fields.where}: messages must end with an assistant turn")
    return Sample(fields.text("id"), fields.get("kind", str, False) or "chat", tuple(parts))


def _parts_sample(fields: _Fields, template: InstructionTemplate, folder: Path) -> Sample:
    objects = fields.objects("parts")
    parts = tuple(
        Part(part.text("text"), part.get("learn", bool), ends_turn=index == len(objects) - 1)
        for index, part in enumerate(objects)
    )
    return Sample(fields.text("id"), fields.get("kind", str, False) or "parts", parts)


def _recipe_sample(fields: _Fields, template: InstructionTemplate, folder: Path) -> Sample:
    identity, segments = fields.text("id"), fields.integers("segments")
    evidence = fields.integers("evidence")
    if max(evidence) >= len(segments):
        raise InputError(f"{fields.where}: evidence slot {max(evidence)} is beyond the segments")
    before, after = template.around_context(fields.text("question"))
    return Sample(
        id=identity,
        kind=fields.text("kind"),
        parts=(
            JoinedPart(before, folder / fields.text("store"), segments, after),
            Part(fields.text("answer"), learn=True, ends_turn=True),
        ),
        evidence_position=slot_position(identity, min(evidence), len(segments)),
    )


_READERS: dict[str, Callable[[_Fields, InstructionTemplate, Path], Sample]] = {
    "parts": _parts_sample,
    "messages": _chat_sample,
    "segments": _recipe_sample,
    "question": _text_sample,
}
