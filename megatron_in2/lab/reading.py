"""Reads a YAML file into dataclasses, strictly: every mistake is one line that names its field."""

import difflib
from collections.abc import Collection, Hashable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from megatron_in2.choices import as_field, choices_in, wrong_choice
from megatron_in2.errors import InputError

_Made = TypeVar("_Made")
_LIKENESS = 0.6  # of a name to a known one from which it counts as a mistake for that one
_SHOWN = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def read_yaml(path: Path) -> Any:
    """Read a YAML file in which no field is given twice.

    Raises:
        InputError: it is no such file.
    """
    try:
        return yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).split())
        raise InputError(f"{path} is not readable as YAML: {problem}") from error


class _UniqueKeys(yaml.SafeLoader):
    """The safe loader; a field that is given twice is an error instead of the last one winning."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"field {key.value!r} is given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def made_of(kind: type[_Made], values: Any, where: str) -> _Made:
    """Return a dataclass made of a mapping.

    Args:
        kind: the dataclass; its fields may be dataclasses, mappings of them, and tuples.
        values: what the file has there.
        where: the file, and the fields above, for messages: ``x.yaml: arms.a``.

    Raises:
        InputError: an unknown or missing field, or a value of another type.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must be fields with values, not {values!r:.60}")
    hints, known = get_type_hints(kind), {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        require_known(str(name), known, below(where, str(name)))
    for name, item in known.items():
        needed = item.default is MISSING and item.default_factory is MISSING
        if needed and name not in values:
            raise InputError(f"{below(where, name)} is missing")
    made = {name: typed(hints[name], each, below(where, name)) for name, each in values.items()}
    try:
        return kind(**made)
    except InputError as error:  # what the dataclass checks of its own fields
        raise InputError(f"{where}: {error}") from error


def require_known(name: str, known: Collection[str], shown: str) -> None:
    """Check that a name is one of those known.

    Args:
        name: of a field, or a field's value.
        known: what it may be.
        shown: how the message names it.

    Raises:
        InputError: it is not; the message names the one that it looks like.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1, _LIKENESS)
    remedy = f"did you mean {near[0]}?" if near else f"use {', '.join(known)}"
    raise InputError(f"{shown} is not known: {remedy}")


def below(where: str, name: str) -> str:
    """Return where a field is: behind the file's name, or below the fields above it."""
    return f"{where}{'.' if ': ' in where else ': '}{name}"


def typed(hint: Any, value: Any, where: str) -> Any:
    """Return a value of a field, checked against the field's type; see :func:`made_of`."""
    if is_dataclass(hint):
        return made_of(hint, value, where)  # type: ignore[arg-type]
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else typed(inner[0], value, where)
    if origin is Literal:
        if value not in inner:
            raise wrong_choice(as_field(where, value), choices_in(hint))
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise InputError(f"{where} must be a list, not {value!r:.60}")
        return tuple(typed(inner[0], each, f"{where}[{place}]") for place, each in enumerate(value))
    if origin in (dict, Mapping):
        return _mapping(inner[1], value, where)
    return _plain(hint, value, where)


def _mapping(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must be names with values, not {value!r:.60}")
    return {
        str(name): each if hint is Any else typed(hint, each, below(where, str(name)))
        for name, each in value.items()
    }


def _plain(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise InputError(f"{where} must be {_SHOWN[hint]}, not {value!r:.60}")
    if isinstance(value, str) and not value.strip():
        raise InputError(f"{where} is empty")
    return value
