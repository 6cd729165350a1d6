"""The prompts, kept in files that a user can replace one by one."""

import re
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError

PACKAGED = Path(__file__).parent / "prompts"
FIELDS = {  # what each file must hold
    "fine_grained": ("{context}",),
    "integration": ("{pieces}",),
    "closed_book": ("{question}",),
    "verify": ("{context}", "{question}", "{answer}"),
}


@dataclass(frozen=True)
class Prompts:
    """One template for each thing that is asked."""

    fine_grained: str
    integration: str
    closed_book: str
    verify: str


def load_prompts(folder: Path | None) -> Prompts:
    """Read the prompts: from ``folder`` where it has NAME.txt, else those of the package.

    Raises:
        InputError: the folder is absent, or a file lacks one of its fields or is not UTF-8.
    """
    if folder is not None and not folder.is_dir():
        raise InputError(f"openai.prompts={folder} is no directory")
    templates = {}
    for name, fields in FIELDS.items():
        path = PACKAGED / f"{name}.txt"
        if folder is not None and (folder / path.name).is_file():
            path = folder / path.name
        try:
            templates[name] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error.reason}); re-encode it") from error
        for field in fields:
            if field not in templates[name]:
                raise InputError(f"{path}: the prompt lacks its field {field}; add it")
    return Prompts(**templates)


def fill(template: str, **values: str) -> str:
    """Put values in place of {name}, all at once: braces inside the values stay text."""
    pattern = "|".join(re.escape(f"{{{name}}}") for name in values)
    return re.sub(pattern, lambda match: values[match[0][1:-1]], template)
