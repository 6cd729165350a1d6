"""What a template is: the wordings of a prompt, and the text that ends an answer."""

from dataclasses import asdict, dataclass
from typing import Any

from megatron_in2.files import sha256_of_text

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
        if context is None:
            return self.without_context.replace("{instruction}", instruction)
        before, after = self.around_context(instruction)
        return f"{before}{context}{after}"

    def around_context(self, instruction: str) -> tuple[str, str]:
        """Return what precedes (ending in a newline) and what follows the context."""
        before, after = self.with_context.split("{context}")
        return before, after.replace("{instruction}", instruction)

    def turn(self, user: str, system: str | None = None) -> str:
        """Return the bare chat prompt for one user turn, the first with a system message or not."""
        if system is None:
            return self.chat.replace("{instruction}", user)
        before, after = self.chat_with_system.split("{instruction}")
        return before.replace("{system}", system) + user + after

    @property
    def user_marks(self) -> tuple[str, str]:
        """What a chat prompt has before and after the user's message."""
        before, after = self.chat.split("{instruction}")
        return before, after

    def user_span(self, prompt: str) -> tuple[int, int]:
        """Return where, in a prompt of this template, the user's message starts and ends.

        The message is what a chat API is sent: the prompt without the marks of a turn.
        """
        before, after = self.user_marks
        return len(before), len(prompt) - len(after)

    @property
    def sha256(self) -> str:
        """A hash of the wording, by which datasets and checkpoints tell templates apart."""
        wording = (
            *(getattr(self, name) for name in PLACEHOLDERS),
            self.answer_end,
        )
        return sha256_of_text("\0".join(wording))


def template_wording(template: InstructionTemplate) -> dict[str, Any]:
    """Return a template's fields as plain JSON values, as a template file holds them."""
    return {**asdict(template), "markers": list(template.markers)}


def template_of_wording(wording: dict[str, Any]) -> InstructionTemplate:
    """Return the template whose fields :func:`template_wording` gave."""
    return InstructionTemplate(**{**wording, "markers": tuple(wording["markers"])})
