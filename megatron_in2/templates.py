"""The instruction templates; training and probing both take their prompts from here.

The wording of ``FILM`` is a format: FILM checkpoints and the published probes are tied to it
byte by byte (arXiv 2404.16811, github.com/microsoft/FILM).
"""

from dataclasses import asdict, dataclass, fields
from pathlib import Path

import yaml

from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text

_FIELDS = {
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
    ``answer_end`` is text that closes every answer, learnt with it. ``markers`` are the tags
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
        """Return what stands before (ending in a newline) and after the context."""
        before, after = self.with_context.split("{context}")
        return before, after.replace("{instruction}", instruction)

    def turn(self, user: str, system: str | None = None) -> str:
        """Return the bare chat prompt for one user turn, the first with a system message or not."""
        if system is None:
            return self.chat.replace("{instruction}", user)
        before, after = self.chat_with_system.split("{instruction}")
        return before.replace("{system}", system) + user + after

    @property
    def sha256(self) -> str:
        """A hash of the wording, by which datasets and checkpoints tell templates apart."""
        wording = (
            *(getattr(self, name) for name in _FIELDS),
            self.answer_end,
        )
        return sha256_of_text("\0".join(wording))


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
    chat_with_system="[INST] {system}\n\n{instruction} [/INST]",
    markers=("[INST]", "[/INST]"),
)

CHATML = InstructionTemplate(
    name="chatml",
    with_context=(
        "<|im_start|>user\n### Context:\n{context}\n\n### Instruction:\n{instruction}<|im_end|>\n"
        "<|im_start|>assistant\n"
    ),
    without_context="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    chat="<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n",
    chat_with_system=(
        "<|im_start|>system\n{system}<|im_end|>\n"
        "<|im_start|>user\n{instruction}<|im_end|>\n<|im_start|>assistant\n"
    ),
    answer_end="<|im_end|>",
    markers=("<|im_start|>", "<|im_end|>"),
)

TEMPLATES = {template.name: template for template in (FILM, CHATML)}


def load_template(name: str) -> InstructionTemplate:
    """Return a template by name (film, chatml), or from a YAML or JSON file of its fields.

    Raises:
        InputError: no such template, or a wording without its placeholders.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if not path.is_file():
        raise InputError(f"template {name}: use {', '.join(TEMPLATES)} or name a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"template {path} is not readable as YAML: {error}") from error
    return _checked(values, path)


def template_wording(template: InstructionTemplate) -> dict[str, str | list[str]]:
    """Return a template's fields as plain JSON values, as a template file holds them."""
    return {**asdict(template), "markers": list(template.markers)}


def _checked(values: object, path: Path) -> InstructionTemplate:
    known = {field.name for field in fields(InstructionTemplate)}
    if not isinstance(values, dict) or not set(values) <= known | {"name"}:
        raise InputError(f"template {path}: the fields are {', '.join(sorted(known))}")
    for field, placeholders in _FIELDS.items():
        wording = values.get(field)
        if not isinstance(wording, str):
            raise InputError(f"template {path}: field {field!r} must be a text")
        positions = [wording.find(placeholder) for placeholder in placeholders]
        if any(wording.count(placeholder) != 1 for placeholder in placeholders) or (
            positions != sorted(positions)
        ):
            raise InputError(
                f"template {path}: field {field!r} must hold {' before '.join(placeholders)}, "
                "each once"
            )
    if "\n{context}\n" not in values["with_context"]:
        raise InputError(
            f"template {path}: in 'with_context', {{context}} must stand on lines of its own"
        )
    markers = values.get("markers", [])
    if not isinstance(markers, list) or not all(isinstance(marker, str) for marker in markers):
        raise InputError(f"template {path}: field 'markers' must list texts")
    if not isinstance(values.get("answer_end", ""), str):
        raise InputError(f"template {path}: field 'answer_end' must be a text")
    given = {**values, "name": str(values.get("name", path.stem)), "markers": tuple(markers)}
    return InstructionTemplate(**given)
