"""The prompts: sets by name, and a folder of the user's own whose files replace some of them."""

import re
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError

PACKAGED = Path(__file__).parent / "prompts"
SETS = ("strict", "paper")
FIELDS = {  # what each file must hold
    "fine_grained": ("{context}",),
    "integration": ("{pieces}",),
    "multi_document": ("{pieces}",),
    "reword": ("{context}", "{question}", "{answer}", "{words}"),
    "closed_book": ("{question}",),
    "judge": ("{question}", "{answer}", "{guess}"),
    "verify": ("{context}", "{question}", "{answer}"),
}


@dataclass(frozen=True)
class Prompts:
    """One template for each thing that is asked."""

    fine_grained: str
    integration: str
    multi_document: str
    reword: str
    closed_book: str
    judge: str
    verify: str

    def text(self, name: str) -> str:
        """Return the template of a name in FIELDS."""
        text: str = getattr(self, name)
        return text

    def asks_for_json(self, name: str) -> bool:
        """Whether a reply to it is JSON, and may be asked for by a schema."""
        return "JSON" in self.text(name)

    def asks_for_quotes(self, name: str) -> bool:
        """Whether a reply to it must quote its evidence."""
        return '"quotes"' in self.text(name)

    def joined(self) -> str:
        """Return all templates: what payloads are likely to repeat."""
        return "\n".join(map(self.text, FIELDS))


def load_prompts(name: str) -> Prompts:
    """Read a set of prompts.

    Args:
        name: strict | paper, or a folder; what a set or a folder lacks comes from ``strict``.

    Raises:
        InputError: no such set or folder, or a file lacks one of its fields or is not UTF-8.
    """
    folder = PACKAGED / name if name in SETS else Path(name)
    if not folder.is_dir():
        raise InputError(
            f"openai.prompts={name}: use {', '.join(SETS)} or a directory with prompt files"
        )
    if not any((folder / f"{each}.txt").is_file() for each in FIELDS):
        raise InputError(
            f"openai.prompts={name} holds none of {', '.join(f'{each}.txt' for each in FIELDS)}"
        )
    return Prompts(**{each: _read(each, folder, PACKAGED / SETS[0]) for each in FIELDS})


def version_1_prompts(name: str) -> Prompts:
    """Return the prompts as version 1 worded them: answers to those were paid for."""
    first, second = PACKAGED / "strict_1", PACKAGED / SETS[0]
    folders = (first, second) if name in SETS else (Path(name), first, second)
    return Prompts(**{each: _read(each, *folders) for each in FIELDS})


def fill(template: str, **values: str) -> str:
    """Put values in place of {name}, all at once: braces inside the values stay text."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda match: values[match[0][1:-1]], template)


def _read(name: str, *folders: Path) -> str:
    """Read a template from the first folder that has it."""
    paths = [folder / f"{name}.txt" for folder in folders]
    path = next(path for path in paths if path.is_file())
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); re-encode it") from error
    for field in FIELDS[name]:
        if field not in text:
            raise InputError(f"{path}: the prompt lacks its field {field}; add it")
    return text
