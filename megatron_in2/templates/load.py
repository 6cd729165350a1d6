"""Loads a template by what ``--template`` takes."""

from dataclasses import fields
from pathlib import Path

import yaml

from megatron_in2.errors import InputError
from megatron_in2.templates.base import PLACEHOLDERS, InstructionTemplate
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM

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


def _checked(values: object, path: Path) -> InstructionTemplate:
    known = {field.name for field in fields(InstructionTemplate)}
    if not isinstance(values, dict) or not set(values) <= known | {"name"}:
        raise InputError(f"template {path}: the fields are {', '.join(sorted(known))}")
    for field, placeholders in PLACEHOLDERS.items():
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
