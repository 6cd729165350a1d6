"""A template whose marks are text: its wordings, and the text that ends an answer."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from megatron_in2.files import sha256_of_text
from megatron_in2.records import (
    BEGIN_OF_SEQUENCE,
    END_OF_SEQUENCE,
    ControlPart,
    Part,
    SamplePart,
)
from megatron_in2.templates.base import Turn, Wording, answer_pieces, wrapped
from megatron_in2.templates.chat_template import text_chat_template
from megatron_in2.tokenizers.base import Tokenizer

PLACEHOLDERS = {
    "with_context": ("{context}", "{instruction}"),
    "without_context": ("{instruction}",),
    "chat": ("{instruction}",),
    "chat_with_system": ("{system}", "{instruction}"),
}  # the placeholders that each wording holds, in the order in which they are filled


@dataclass(frozen=True)
class InstructionTemplate:
    """Prompts of one turn, up to and with what precedes the answer.

    ``with_context`` has the fields {context} and {instruction}, the context on lines of its
    own; ``without_context`` has {instruction}; ``chat`` has {instruction} and adds nothing else;
    ``chat_with_system`` is the first turn of a chat that has a {system} message too.
    ``answer_end`` is text that closes every answer, trained on with it. ``markers`` are the tags
    that structure a prompt: a user's own text that holds one is counted and reported.

    A conversation is the begin-of-sequence token, then each prompt and each answer, encoded by
    itself, each answer with an end-of-sequence token.
    """

    name: str
    with_context: str
    without_context: str
    chat: str
    chat_with_system: str
    answer_end: str = ""
    markers: tuple[str, ...] = ()

    def prompt(self, instruction: str, context: str | None) -> str:
        """Return the prompt for an instruction, with or without a context."""
        return Wording(self.name, self.with_context, self.without_context).message(
            instruction, context
        )

    def turn(self, user: str, system: str | None = None) -> str:
        """Return the bare chat prompt for one user turn, the first with a system message or not."""
        before, after = self._marks(system)
        return f"{before}{user}{after}"

    @property
    def user_marks(self) -> tuple[str, str]:
        """What a chat prompt has before and after the user's message."""
        return self._marks(None)

    @property
    def wording(self) -> Wording:
        """The wordings without the marks of a turn, which both of them have."""
        before, after = self.user_marks
        with_context, without_context = (
            each.removeprefix(before).removesuffix(after)
            for each in (self.with_context, self.without_context)
        )
        return Wording(self.name, with_context, without_context)

    @property
    def end_token(self) -> str:
        """The tokenizer's end-of-sequence token, whatever its name."""
        return END_OF_SEQUENCE

    @cached_property  # every recipe is compared with it
    def sha256(self) -> str:
        """A hash of the wording, by which datasets and checkpoints tell templates apart."""
        wording = (
            *(getattr(self, name) for name in PLACEHOLDERS),
            self.answer_end,
        )
        return sha256_of_text("\0".join(wording))

    def values(self) -> dict[str, Any]:
        """Return the fields as plain JSON values, as a template file holds them."""
        return {**asdict(self), "markers": list(self.markers)}

    def parts(self, system: str | None, turns: Sequence[Turn]) -> tuple[SamplePart, ...]:
        """Return the parts of a conversation that ends with an answer."""
        parts: list[SamplePart] = [ControlPart(BEGIN_OF_SEQUENCE)]
        for index, turn in enumerate(turns):
            before, after = self._marks(None if index else system)
            parts.append(wrapped(turn.message, before, after, "nothing"))
            parts += answer_parts(turn, self.answer_end)
            parts.append(ControlPart(self.end_token, turn.learn))
        return tuple(parts)

    def prompt_text(self, message: str) -> str:
        """Return the prompt for one user's message as text, begin-of-sequence left out."""
        return self.turn(message)

    def user_span(self, prompt: str) -> tuple[int, int]:
        """Return where, in a prompt of this template, the user's message starts and ends.

        The message is what a chat API is sent: the prompt without the marks of a turn.
        """
        before, after = self.user_marks
        return len(before), len(prompt) - len(after)

    def chat_template(self, tokenizer: Tokenizer) -> str:
        """Return the Jinja chat template that renders conversations as this template writes them.

        It takes an optional system message, then user and assistant messages in turn.
        """
        before_system, rest = self.chat_with_system.split("{system}")
        between, after_first = rest.split("{instruction}")
        return text_chat_template(
            self.user_marks,
            (before_system, between, after_first),
            self.answer_end,
            answer_space="" if tokenizer.prompt_border == "newline" else " ",
        )

    def _marks(self, system: str | None) -> tuple[str, str]:
        """Return what is written before and after a user's message."""
        wording = self.chat if system is None else self.chat_with_system
        before, after = wording.split("{instruction}")
        return (before if system is None else before.replace("{system}", system)), after


def answer_parts(turn: Turn, answer_end: str = "") -> list[Part]:
    """Return the parts of an answer, its attempts before it, and the text that closes it."""
    (first, learn), *rest = answer_pieces(turn)
    pieces = [Part(first, learn), *(Part(text, each, "text") for text, each in rest)]
    if answer_end:
        pieces[-1] = replace(pieces[-1], text=pieces[-1].text + answer_end)
    return pieces


def template_of_wording(wording: dict[str, Any]) -> InstructionTemplate:
    """Return the template whose fields :meth:`InstructionTemplate.values` gave."""
    return InstructionTemplate(**{**wording, "markers": tuple(wording["markers"])})


def chat_template_problem(template: InstructionTemplate) -> str | None:
    """Say why no chat template gives the trained ids of a template's prompts, with the remedy.

    Returns:
        One line, or None where the chat template is exact.
    """
    for name in PLACEHOLDERS:
        if getattr(template, name).endswith((" ", "▁")):  # the tokenizer's own word for a space
            return (
                f"{name!r} must not end in a space, which the tokenizer would join with the one "
                "before the answer: remove it (answers get a space of their own)"
            )
    before, after = template.user_marks
    for name in ("with_context", "without_context"):
        wording: str = getattr(template, name)
        if not (wording.startswith(before) and wording.endswith(after)):
            return (
                f"{name!r} must start with {before!r} and end with {after!r}, as 'chat' does: a "
                "chat template writes these marks around every user's message"
            )
    return None
