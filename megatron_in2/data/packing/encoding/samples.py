"""Reads samples in their four forms (text, chat, parts, recipe) and reduces them to parts."""

import difflib
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_in2.data.packed.manifest import PADDING_KIND
from megatron_in2.data.packing.encoding.designs import DESIGNS, GENERIC_SYSTEM, Design
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
from megatron_in2.templates.base import Attempt, ConversationError, Template, Turn
from megatron_in2.templates.film import FILM
from megatron_in2.templates.text import answer_parts

FORMS = ("parts", "messages", "segments", "question")  # the field that tells each form
_EVERY = ("id", "kind", "attempt", "strategy", "system")
_QA = (*_EVERY, "question", "answer", "evidence")
KNOWN_FIELDS = {
    "parts": frozenset((*_EVERY, "parts")),
    "messages": frozenset((*_EVERY, "messages")),
    "segments": frozenset((*_QA, "store", "segments", "n_tokens", "template_sha256")),
    "question": frozenset((*_QA, "context")),
}
PART_FIELDS = frozenset(("text", "learn"))
MESSAGE_FIELDS = frozenset(("role", "content", "train"))
ATTEMPT_FIELDS = frozenset(("text", "verification"))
_UNCORRECTED = "has no answer behind it that is trained on: train on the last answer, or remove it"
_NO_PLACE_FOR_SYSTEM = {
    "messages": "belongs in 'messages': make it the first one, with the role system",
    "parts": "is not for parts, whose text is encoded as it is: make it one of them",
}
UNKNOWN_FIELD = "samples with an unknown field "  # begins a note that names the field
KEPT_PROMPT = "samples of a strategy whose prompt stays: --design prompt-erasing erases it"
LIKENESS = 0.8  # of an unknown field's name to a known one's from which it counts as a mistake


class SampleError(InputError):
    """One sample that cannot be used; ``reason`` is a short name under which such are counted."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return SampleError, (str(self), self.reason)


def read_samples(path: Path, template: Template) -> Iterator[tuple[str, Sample]]:
    """Yield (``FILE:LINE``, sample) for every line of a samples file.

    Parts are marked as the design ``answer`` does.

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
        fields = _Fields(record, where)
        self._note_unknown(fields, KNOWN_FIELDS[form])
        if fields.has("attempt") and not self._design.has_attempt:
            raise fields.error(
                "attempt",
                f"is not for design {self._design.name}, which would leave it out: choose "
                "partial-answer-masking, or remove it",
            )
        if form in _NO_PLACE_FOR_SYSTEM and fields.optional_text("system"):
            raise fields.error("system", _NO_PLACE_FOR_SYSTEM[form])
        if fields.optional_text("strategy") and not self._design.erases_system:
            self.notes[KEPT_PROMPT] += 1
        try:
            return self._forms[form](fields, folder)
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
            kind=fields.kind(),
            parts=self._template.parts(
                self._system(fields.optional_text("system")), [self._turn(message, fields)]
            ),
            evidence_position=position,
        )

    def _recipe_sample(self, fields: "_Fields", folder: Path) -> Sample:
        identity, segments = fields.text("id"), fields.integers("segments")
        evidence, question = fields.integers("evidence"), fields.text("question")
        if max(evidence) >= len(segments):
            raise fields.error("evidence", f"slot {max(evidence)} is beyond the segments")
        self._note_markers(question)
        before, after = self._wording.around_context(question)
        store = _store_path(folder, fields.text("store"))
        # A recipe states its length under the template and the design of its synthesis.
        counted = fields.get("template_sha256", str, required=False) or FILM.sha256
        stated = fields.get("n_tokens", int, required=False)
        system = fields.optional_text("system")
        longer = fields.has("attempt") or system is not None
        is_stated = counted == self._template.sha256 and not longer
        message = JoinedPart(before, store, segments, after, evidence)
        return Sample(
            id=identity,
            kind=fields.kind(),
            parts=self._template.parts(self._system(system), [self._turn(message, fields)]),
            evidence_position=slot_position(identity, min(evidence), len(segments)),
            stated_tokens=stated if is_stated else None,
        )

    def _system(self, given: str | None) -> str | None:
        """Return the system message that a sample has in training, None for none."""
        if given is None or not self._design.erases_system:
            return given
        return self._generic_system or None

    def _turn(self, message: str | JoinedPart | ContextPart, fields: "_Fields") -> Turn:
        return Turn(message, fields.text("answer"), attempts=self._attempts(fields))

    def _attempts(self, fields: "_Fields") -> tuple[Attempt, ...]:
        """Return what precedes the last answer of a sample of any form, without loss.

        Args:
            fields: of the sample; ``attempt`` is a text, or a list of {text, verification}.
        """
        if not fields.has("attempt"):
            if self._design.has_attempt:
                self.notes["samples without an attempt: their whole answer is trained on"] += 1
            return ()
        if not fields.is_list("attempt"):
            return (Attempt(fields.text("attempt")),)
        *earlier, last = fields.objects("attempt")
        for each in (*earlier, last):
            self._note_unknown(each, ATTEMPT_FIELDS)
        verification = last.text("verification") if last.has("verification") else ""
        attempts = [Attempt(each.text("text"), each.text("verification")) for each in earlier]
        return (*attempts, Attempt(last.text("text"), verification))

    def _chat_sample(self, fields: "_Fields", folder: Path) -> Sample:
        turns: list[Turn] = []
        system: str | None = None  # as it was written
        user: str | None = None
        attempts = self._attempts(fields)
        for message in fields.objects("messages"):
            self._note_unknown(message, MESSAGE_FIELDS)
            message.refuse_attempt("messages")
            role, content = message.text("role"), message.text("content")
            expected = "user" if user is None else "assistant"
            if role == "system" and not turns and system is None and user is None:
                system = content
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
        if attempts:
            if not turns[-1].learn:
                raise fields.error("attempt", _UNCORRECTED)
            turns[-1] = replace(turns[-1], attempts=attempts)
        parts = self._template.parts(self._system(system), turns)
        return Sample(fields.text("id"), fields.kind("chat"), parts)

    def _parts_sample(self, fields: "_Fields", folder: Path) -> Sample:
        objects = fields.objects("parts")
        for part in objects:
            self._note_unknown(part, PART_FIELDS)
            part.refuse_attempt("parts")
        texts = [Part(part.part_text(), part.get("learn", bool)) for part in objects]
        if attempts := self._attempts(fields):
            if not texts[-1].learn:
                raise fields.error("attempt", _UNCORRECTED)
            texts[-1:] = answer_parts(Turn("", texts[-1].text, attempts=attempts))
        parts: list[SamplePart] = [ControlPart(BEGIN_OF_SEQUENCE), *texts]
        parts.append(ControlPart(self._template.end_token, texts[-1].learn))
        return Sample(fields.text("id"), fields.kind("parts"), tuple(parts))

    def _note_unknown(self, fields: "_Fields", known: frozenset[str]) -> None:
        for name in fields.unknown(known):
            self.notes[f"{UNKNOWN_FIELD}{name!r:.60}"] += 1

    def _note_markers(self, *texts: str) -> None:
        for marker in self._template.markers:
            if any(marker in text for text in texts):
                self.notes[f"samples with {marker} in a user's text"] += 1


def middle_position(span: tuple[int, int], length: int) -> float:
    """Return where the middle of a span is in a text of some length, from 0 to 1."""
    return (span[0] + span[1]) / 2 / length


@lru_cache(maxsize=1024)
def _store_path(folder: Path, name: str) -> Path:
    return folder / name


@lru_cache(maxsize=1024)
def _misspelt(unknown: frozenset[str], absent: frozenset[str]) -> tuple[str, str] | None:
    """Return an unknown name and the known one that it looks like, if that one is absent."""
    for name in sorted(unknown):
        if found := difflib.get_close_matches(name, sorted(absent), 1, LIKENESS):
            return name, found[0]
    return None


class _Fields:
    """Typed access to one JSON object, whose errors name line, field and value."""

    def __init__(self, record: dict[str, Any], where: str) -> None:
        self._record = record
        self._where = where

    def error(self, name: str, problem: str) -> SampleError:
        return SampleError(f"{self._where}: field {name!r} {problem}", f"field {name}")

    def unknown(self, known: frozenset[str]) -> frozenset[str]:
        """Return the fields beside those that are known; empty ones do not count.

        Raises:
            SampleError: one looks like a known field that is absent.
        """
        if self._record.keys() <= known:
            return frozenset()
        given = frozenset(name for name, value in self._record.items() if value is not None)
        unknown = given - known
        if found := _misspelt(unknown, known - given):
            name, likely = found
            raise SampleError(
                f"{self._where}: unknown field {name!r} looks like {likely!r}: "
                "correct or rename it",
                "unknown field",
            )
        return unknown

    def has(self, name: str) -> bool:
        return self._record.get(name) is not None

    def is_list(self, name: str) -> bool:
        return isinstance(self._record.get(name), list)

    def refuse_attempt(self, form: str) -> None:
        """Refuse an attempt inside a message or a part, where it would be ignored."""
        if self.has("attempt"):
            raise self.error(
                "attempt", f"belongs beside {form!r}: it precedes the last answer of the sample"
            )

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

    def optional_text(self, name: str) -> str | None:
        """Return a text that may be absent or empty; None where it is."""
        return self.text(name) if self.has(name) and self._record[name] != "" else None

    def part_text(self) -> str:
        """Return a part's text, which may be white space."""
        if not (value := self.content("text")):
            raise self.error("text", "is empty")
        return value

    def kind(self, default: str | None = None) -> str:
        kind = self.text("kind") if default is None or self.has("kind") else default
        if kind == PADDING_KIND:
            raise self.error("kind", f"{PADDING_KIND!r} is reserved for padding: use another word")
        return kind

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
