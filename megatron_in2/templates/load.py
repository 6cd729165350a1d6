"""Loads a template by what ``--template`` takes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from megatron_in2.errors import InputError
from megatron_in2.files import read_json
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.templates.text import (
    PLACEHOLDERS,
    InstructionTemplate,
    chat_template_problem,
    template_of_wording,
)

TEMPLATES = {template.name: template for template in (FILM, CHATML)}
TEMPLATE_FILE = "instruction_template.json"  # in checkpoints and exports


def load_template(name: str) -> InstructionTemplate:
    """Load a template.

    Args:
        name: ``film``, ``chatml``, a YAML or JSON file of a template's fields, or a directory
            with ``instruction_template.json``, which checkpoints and exports have.

    Raises:
        InputError: no such template, or a wording that cannot be used.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if path.is_dir():
        path = path / TEMPLATE_FILE
        if not path.is_file():
            raise InputError(
                f"template {name}: the directory holds no {TEMPLATE_FILE}: name the template that "
                f"the model was trained with ({', '.join(TEMPLATES)} or a file)"
            )
    if not path.is_file():
        known = ", ".join(TEMPLATES)
        raise InputError(f"template {name}: use {known} or name a YAML file or an export")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"template {path} is not readable as YAML: {error}") from error
    return _checked(values, path)


def read_template_beside(folder: Path) -> InstructionTemplate | None:
    """Return the template that a checkpoint or an export carries, or None where it carries none.

    Wordings of older versions are taken as they are: what was trained cannot be changed.

    Raises:
        InputError: the file is not readable.
    """
    path = folder / TEMPLATE_FILE
    if not path.is_file():
        return None
    try:
        return template_of_wording(read_json(path))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} is not a template: {error}") from error


def _checked(values: Any, path: Path) -> InstructionTemplate:
    known = {field.name for field in fields(InstructionTemplate)}
    if not isinstance(values, dict) or not set(values) <= known:
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
            f"template {path}: in 'with_context', {{context}} must be on lines of its own"
        )
    markers = values.get("markers", [])
    if not isinstance(markers, list) or not all(isinstance(marker, str) for marker in markers):
        raise InputError(f"template {path}: field 'markers' must list texts")
    if not isinstance(values.get("answer_end", ""), str):
        raise InputError(f"template {path}: field 'answer_end' must be a text")
    given = {**values, "name": str(values.get("name", path.stem)), "markers": tuple(markers)}
    template = InstructionTemplate(**given)
    if problem := chat_template_problem(template):
        raise InputError(f"template {path}: field {problem}")
    return template
