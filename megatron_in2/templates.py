"""The instruction templates; training and probing both take their prompts from here.

The wording of ``FILM`` is a format: FILM checkpoints and the published probes are tied to it
byte by byte (arXiv 2404.16811, github.com/microsoft/FILM).
"""

from dataclasses import dataclass

from megatron_in2.files import sha256_of_text


@dataclass(frozen=True)
class InstructionTemplate:
    """Prompts of one turn, up to and with what precedes the answer.

    ``with_context`` has the fields {context} and {instruction}, the context on lines of its
    own; ``without_context`` has {instruction}; ``chat`` has {instruction} and adds nothing else.
    """

    name: str
    with_context: str
    without_context: str
    chat: str

    def prompt(self, instruction: str, context: str | None) -> str:
        """Return the prompt for an instruction, with or without a context."""
        if context is None:
            return self.without_context.replace("{instruction}", instruction)
        before, after = self.around_context(instruction)
        return f"{before}{context}{after}"

    def around_context(self, instruction: str) -> tuple[str, str]:
        """Return what stands before (ending in a newline) and after the context."""
        before, after = self.with_context.split("{context}")
        return before, after.replace("{instruction}", instruction)

    def turn(self, user: str) -> str:
        """Return the bare chat prompt for one user turn."""
        return self.chat.replace("{instruction}", user)

    @property
    def sha256(self) -> str:
        """A hash of the wording, by which datasets and checkpoints tell templates apart."""
        return sha256_of_text("\0".join((self.with_context, self.without_context, self.chat)))


FILM = InstructionTemplate(
    name="film",
    with_context=(
        "[INST] Below is a context and an instruction. Based on the information provided in the "
        "context, write a response for the instruction.\n\n### Context:\n{context}\n\n"
        "### Instruction:\n{instruction} [/INST]"
    ),
    without_context=(
        "[INST] Below is a user instruction. Write a response for the instruction.\n\n"
        "### Instruction:\n{instruction} [/INST]"
    ),
    chat="[INST] {instruction} [/INST]",
)
