"""Reads samples in their four forms (text, chat, parts, recipe) and reduces them to parts."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_in2.data.packing.designs import DESIGNS, GENERIC_SYSTEM, Design
from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines
from megatron_in2.records import (
    BEGIN_OF_SEQUENCE,
    ContextPart,
    ControlPart,
    JoinedPart,
    Part,
    Sample,
    SamplePart,
    slot_position,
)
from megatron_in2.templates.base import ConversationError, Template, Turn
from megatron_in2.templates.film import FILM

FORMS = ("parts", "messages", "segments", "question")  # the field that tells each form


class SampleError(InputError):
    """One sample that cannot be used; ``reason`` is a short name under which such are counted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return SampleError, (str(self), self.reason)


def read_samples(path: Path, template: Template) -> Iterator[tuple[str, Sample]]:
    """Yield (``FILE:LINE``, sample) for every line of a samples file, learnt as ``answer`` does.

    Raises:
        InputError: a line is not a sample; the message names file, line, field and value.
    """
    reader = SampleReader(template)
    for where, record in read_json_lines(path):
        yield where, reader.read(record, where, path.parent)


class SampleReader:
    """Turns JSON objects into samples under one template and design.

    ``notes`` counts what is worth a line in the report but is no error.
    """

    def __init__(
        self,
        template: Template,
        design: Design = DESIGNS["answer"],
        generic_system: str = GENERIC_SYSTEM,
    ) -> None:
        self._template = template
        self._wording = template.wording
        self._design = design
        self._generic_system = generic_system
        self._forms = {
            "parts": self._parts_sample,
            "messages": self._chat_sample,
            "segments": self._recipe_sample,
            "question": self._text_sample,
        }
        self.notes: Counter[str] = Counter()

    def read(self, record: dict[str, Any], where: str, folder: Path) -> Sample:
        """Read one object of any form.

        Args:
            record: the object.
            where: ``FILE:LINE``, for messages.
            folder: what a recipe's store is relative to.

        Raises:
            SampleError: it is no sample of any form.
        """
        form = next((field for field in FORMS if field in record), None)
        if form is None:
            raise SampleError(
                f"{where}: not a sample: none of the fields {', '.join(FORMS)}", "not a sample"
            )
        try:
            return self._forms[form](_Fields(record, where), folder)
        except ConversationError as error:
            raise SampleError(f"{where}: {error}", "chat template") from error

    def _text_sample(self, fields: "_Fields", folder: Path) -> Sample:
        context = fields.content("context") if fields.has("context") else None
        question = fields.text("question")
        spans = fields.spans("evidence", len(context)) if context else ()
        position = middle_position(spans[0], len(context)) if context and spans else None
        self._note_markers(question, context or "")
        message: str | ContextPart = self._wording.message(question, None)
        if context is not None:
            before, after = self._wording.around_context(question)
            message = ContextPart(before, context, after, spans)
        return Sample(
            id=fields.text("id"),
            kind=fields.text("kind"),
            parts=self._template.parts(None, [self._turn(message, fields)]),
            evidence_position=position,
        )

    def _recipe_sample(self, fields: "_Fields", folder: Path) -> Sample:
        identity, segments = fields.text("id"), fields.integers("segments")
        evidence, question = fields.integers("evidence"), fields.text("question")
        if max(evidence) >= len(segments):
            raise fields.error("evidence", f"slot {max(evidence)} is beyond the segments")
        self._note_markers(question)
        before, after = self._wording.around_context(question)
        store = folder / fields.text("store")
        # A recipe states its length under the template and the design of its synthesis.
        counted = fields.get("template_sha256", str, required=False) or FILM.sha256
        is_stated = counted == self._template.sha256 and not self._design.has_attempt
        stated = fields.get("n_tokens", int, required=False) if is_stated else None
        return Sample(
            id=identity,
            kind=fields.text("kind"),
            parts=self._template.parts(
                None, [self._turn(JoinedPart(before, store, segments, after, evidence), fields)]
            ),
            evidence_position=slot_position(identity, min(evidence), len(segments)),
            stated_tokens=stated,
        )

    def _turn(self, message: str | JoinedPart | ContextPart, fields: "_Fields") -> Turn:
        attempt = fields.text("attempt") if self._design.has_attempt else None
        return Turn(message, fields.text("answer"), attempt=attempt)

    def _chat_sample(self, fields: "_Fields", folder: Path) -> Sample:
        turns: list[Turn] = []
        system: str | None = None
        user: str | None = None
        for message in fields.objects("messages"):
            role, content = message.text("role"), message.text("content")
            expected = "user" if user is None else "assistant"
            if role == "system" and not turns and system is None and user is None:
                system = self._generic_system if self._design.erases_system else content
            elif role != expected:
                raise message.error("role", f"is {role!r} where {expected!r} is expected")
            elif user is None:
                self._note_markers(content)
                user = content
            else:
                train = message.get("train", bool, required=False)
                learn = train is not False or self._design.learns_every_turn
                turns.append(Turn(user, content, learn))
                user = None
        if user is not None or not turns:
            raise fields.error("messages", "must end with an assistant turn")
        parts = self._template.parts(system, turns)
        return Sample(fields.text("id"), fields.kind("chat"), parts)

    def _parts_sample(self, fields: "_Fields", folder: Path) -> Sample:
        texts = [
            Part(part.text("text"), part.get("learn", bool)) for part in fields.objects("parts")
        ]
        parts: list[SamplePart] = [ControlPart(BEGIN_OF_SEQUENCE), *texts]
        parts.append(ControlPart(self._template.end_token, texts[-1].learn))
        return Sample(fields.text("id"), fields.kind("parts"), tuple(parts))

    def _note_markers(self, *texts: str) -> None:
        for marker in self._template.markers:
            if any(marker in text for text in texts):
                self.notes[f"samples with {marker} in a user's text"] += 1


def middle_position(span: tuple[int, int], length: int) -> float:
    """Return where the middle of a span is in a text of some length, from 0 to 1."""
    return (span[0] + span[1]) / 2 / length


class _Fields:
    """Typed access to one JSON object, whose errors name line, field and value."""

    def __init__(self, record: dict[str, Any], where: str) -> None:
        self._record = record
        self._where = where

    def error(self, name: str, problem: str) -> SampleError:
        return SampleError(f"{self._where}: field {name!r} {problem}", f"field {name}")

    def has(self, name: str) -> bool:
        return self._record.get(name) is not None

    def get(self, name: str, kind: type, required: bool = True) -> Any:
        value = self._record.get(name)
        if value is None and not required:
            return None
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise self.error(name, f"must be {kind.__name__}, found {value!r:.60}")
        return value

    def content(self, name: str) -> str:
        value: str = self.get(name, str)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise self.error(name, "holds half a surrogate pair: not Unicode text") from error
        return value

    def text(self, name: str) -> str:
        value = self.content(name)
        if not value or value.isspace():
            raise self.error(name, "is empty")
        return value

    def kind(self, default: str) -> str:
        return self.text("kind") if self.has("kind") else default

    def objects(self, name: str) -> list["_Fields"]:
        values = self.get(name, list)
        if not values or not all(isinstance(value, dict) for value in values):
            raise self.error(name, "must be a list of objects")
        return [_Fields(value, f"{self._where}: {name}[{i}]") for i, value in enumerate(values)]

    def integers(self, name: str) -> tuple[int, ...]:
        values = self.get(name, list)
        if set(map(type, values)) != {int} or min(values) < 0:
            raise self.error(name, "must list whole numbers from 0")
        return tuple(values)

    def spans(self, name: str, length: int) -> tuple[tuple[int, int], ...]:
        """Return [start, end) pairs inside a text of some length; none where none are given."""
        values = self.get(name, list, required=False) or []
        for value in values:
            pair = isinstance(value, list) and len(value) == 2
            if not pair or not all(type(number) is int for number in value):
                raise self.error(name, f"must list [start, end] pairs, found {value!r:.60}")
            if not 0 <= value[0] < value[1] <= length:
                raise self.error(name, f"{value} lies outside the context of {length} characters")
        return tuple((start, end) for start, end in values)
