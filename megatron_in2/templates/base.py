"""What a template is, whatever its kind: how a conversation becomes the parts of a sample."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from megatron_in2.errors import InputError
from megatron_in2.records import ContextPart, Follows, JoinedPart, Part, SamplePart
from megatron_in2.tokenizers.base import Tokenizer


class ConversationError(InputError):
    """A conversation that a template cannot write."""


@dataclass(frozen=True)
class Wording:
    """How a user's message is made of an instruction and, perhaps, a context.

    ``with_context`` has the fields {context}, on lines of its own, and {instruction};
    ``without_context`` has {instruction}.
    """

    name: str
    with_context: str
    without_context: str

    def message(self, instruction: str, context: str | None) -> str:
        """Return the user's message for an instruction, with or without a context."""
        if context is None:
            return self.without_context.replace("{instruction}", instruction)
        before, after = self.around_context(instruction)
        return f"{before}{context}{after}"

    def around_context(self, instruction: str) -> tuple[str, str]:
        """Return what precedes (ending in a newline) and what follows the context."""
        before, after = self.with_context.split("{context}")
        return before, after.replace("{instruction}", instruction)


@dataclass(frozen=True)
class Attempt:
    """A wrong answer that stays in the input, and what is said of it.

    Args:
        text: what the assistant said first; never trained on.
        verification: that it is wrong; trained on with the answer. Empty where the answer says it.
    """

    text: str
    verification: str = ""


@dataclass(frozen=True)
class Turn:
    """A user's message and the answer to it.

    Args:
        message: text; or the parts of a message around a context that is not one text.
        answer: what the assistant says.
        learn: whether the answer is trained on.
        attempts: what the assistant said before the answer, in order; each but the last has a
            verification.
    """

    message: str | JoinedPart | ContextPart
    answer: str
    learn: bool = True
    attempts: tuple[Attempt, ...] = ()


def answer_pieces(turn: Turn) -> list[tuple[str, bool]]:
    """Return what the assistant says, as (text, whether it is trained on).

    A piece begins with the space that parts it from the one before. Trained and untrained
    pieces take turns: ``attempt``, `` verification``, `` attempt``, `` verification answer``.
    """
    pieces: list[tuple[str, bool]] = []
    said = ""  # of the attempt before: a verification that is trained on
    for attempt in turn.attempts:
        if said:
            pieces.append((f" {said}", turn.learn))
        pieces.append((f" {attempt.text}" if pieces else attempt.text, False))
        said = attempt.verification
    answer = f"{said} {turn.answer}" if said else turn.answer
    pieces.append((f" {answer}" if pieces else answer, turn.learn))
    return pieces


class Template(Protocol):
    """How conversations are written, for training, for an export, for probes and benchmarks."""

    @property
    def name(self) -> str: ...

    @property
    def wording(self) -> Wording:
        """How a user's message is made of an instruction and a context."""

    @property
    def end_token(self) -> str:
        """The control token that ends every answer, by its name or role; it is trained on."""

    @property
    def markers(self) -> tuple[str, ...]:
        """Tags that structure a prompt as text: a user's own text that holds one is counted."""

    @property
    def sha256(self) -> str:
        """A hash by which datasets and checkpoints tell templates apart."""

    def values(self) -> dict[str, Any]:
        """Return the template as plain JSON values, as manifests and template files hold it."""

    def parts(self, system: str | None, turns: Sequence[Turn]) -> tuple[SamplePart, ...]:
        """Return the parts of a conversation that ends with an answer.

        Raises:
            ConversationError: the template cannot write it.
        """

    def prompt_text(self, message: str) -> str:
        """Return the prompt for one user's message as text, begin-of-sequence left out."""

    def user_span(self, prompt: str) -> tuple[int, int]:
        """Return where, in a prompt of this template, the user's message starts and ends."""

    def chat_template(self, tokenizer: Tokenizer) -> str:
        """Return the Jinja chat template of an export with this tokenizer."""


def wrapped(
    message: str | JoinedPart | ContextPart, before: str, after: str, follows: Follows
) -> Part | JoinedPart | ContextPart:
    """Return the part of a user's message with the marks around it; it is not trained on."""
    if isinstance(message, str):
        return Part(before + message + after, learn=False, follows=follows)
    before, after = before + message.before, message.after + after
    return replace(message, before=before, after=after, follows=follows)
