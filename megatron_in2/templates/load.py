"""Loads a template by what ``--template`` takes."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from megatron_in2.choices import as_option, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, read_yaml
from megatron_in2.templates.base import Template, Wording
from megatron_in2.templates.chatml import CHATML
from megatron_in2.templates.film import FILM
from megatron_in2.templates.own import OwnTemplate, own_template
from megatron_in2.templates.text import (
    PLACEHOLDERS,
    InstructionTemplate,
    chat_template_problem,
    template_of_wording,
)
from megatron_in2.templates.wordings import WORDINGS, WordingName
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.files import read_chat_template
from megatron_in2.tokenizers.load import load_tokenizer

TEMPLATES = {template.name: template for template in (FILM, CHATML)}
BASE = "base"
TEMPLATE_FILE = "instruction_template.json"  # in checkpoints and exports


def load_template(
    name: str, tokenizer: Tokenizer | None = None, wording: WordingName = "film"
) -> Template:
    """Load a template.

    Args:
        name: ``base``: the chat template beside the tokenizer, or FILM's where there is none;
            ``film``, ``chatml``, a YAML or JSON file of a template's fields; or a directory: a
            checkpoint or an export with ``instruction_template.json``, else a base.
        tokenizer: the run's; ``base`` needs it.
        wording: of a user's message inside a base's own chat template. Other templates have
            wordings of their own.

    Raises:
        InputError: no such template, or one that cannot be used.
    """
    if wording not in WORDINGS:
        raise wrong_choice(as_option("wording", wording), tuple(WORDINGS))
    template = _loaded(name, tokenizer, WORDINGS[wording])
    if wording == "plain" and isinstance(template, InstructionTemplate):
        raise InputError(
            f"--wording plain: template {template.name} has a wording of its own: use it with the "
            "chat template of a base (--template base, a --tokenizer-model directory that has one)"
        )
    return template


def _loaded(name: str, tokenizer: Tokenizer | None, wording: Wording) -> Template:
    if name == BASE:
        assert tokenizer is not None, "the base's own template is beside its tokenizer"
        return own_template(tokenizer, wording) or FILM
    if name in TEMPLATES:
        return TEMPLATES[name]
    path = Path(name)
    if path.is_dir():
        return _template_in(path, wording)
    if not path.is_file():
        known = ", ".join((BASE, *TEMPLATES))
        raise InputError(f"template {name}: use {known} or name a YAML file or an export")
    return _checked(read_yaml(path, "template"), path)


def _template_in(folder: Path, wording: Wording) -> Template:
    """Return the template that a model in a folder was trained with, or its base's own."""
    found = read_template_beside(folder)
    if found is None and read_chat_template(folder) is not None:
        found = own_template(load_tokenizer(str(folder)), wording)
    if found is None:
        raise InputError(
            f"template {folder}: the directory holds no {TEMPLATE_FILE} and no chat template: name "
            f"the template that the model was trained with ({', '.join(TEMPLATES)} or a file)"
        )
    return found


def template_of_values(values: dict[str, Any]) -> Template:
    """Return the template whose :meth:`Template.values` these are."""
    if "chat_template" not in values:
        return template_of_wording(values)
    return OwnTemplate(
        source=values["chat_template"],
        tokens=tuple(sorted(values["tokens"].items())),
        control=tuple(values["control"]),
        wording=Wording(**values["wording"]),
        name=values["name"],
    )


def read_template_beside(folder: Path) -> Template | None:
    """Return the template that a checkpoint or an export carries, or None where it carries none.

    Wordings of older versions are taken as they are: what was trained cannot be changed.

    Raises:
        InputError: the file is not readable.
    """
    path = folder / TEMPLATE_FILE
    if not path.is_file():
        return None
    try:
        return template_of_values(read_json(path))
    except (AttributeError, KeyError, TypeError) as error:
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
