"""Closed choices of the configs: ``Literal`` fields, and the one error for any other value."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from megatron_in2.errors import InputError

Named = Callable[[str, object], str]  # (name of a field, its value) -> how a message shows both


def as_field(name: str, value: object) -> str:
    """Show a field as a YAML file has it: ``runtime.dtype='float16'``."""
    return f"{name}={value!r}"


def as_option(name: str, value: object) -> str:
    """Show a field as the command line has it: ``--on-error ignore``."""
    return f"--{name.replace('_', '-')} {value}"


def choices_in(annotation: Any) -> tuple[str, ...]:
    """Return the values that a ``Literal`` lists, also inside a list, a tuple or ``| None``.

    Empty where the annotation is no closed choice.
    """
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (list, tuple, Union, UnionType):
        return tuple(choice for inner in get_args(annotation) for choice in choices_in(inner))
    return ()


def require_choices(config: object, named: Named = as_field, prefix: str = "") -> None:
    """Check every ``Literal`` field of a dataclass and of the dataclasses in it.

    Args:
        config: the dataclass; ``None`` in an optional field is not checked.
        named: how the message shows a field.
        prefix: of the fields' names, such as ``runtime.``.

    Raises:
        InputError: naming the first field whose value is none of its choices, value and choices.
    """
    hints = get_type_hints(type(config))
    for item in fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if is_dataclass(value):
            require_choices(value, named, f"{prefix}{item.name}.")
        elif choices := choices_in(hints[item.name]):
            for each in value if isinstance(value, list | tuple) else (value,):
                if each is not None and each not in choices:
                    raise wrong_choice(named(prefix + item.name, each), choices)


def wrong_choice(shown: str, choices: tuple[str, ...]) -> InputError:
    """Return the error for a value that is none of the choices; ``""`` means leaving it empty."""
    empty_last = sorted(choices, key=lambda choice: not choice)
    *others, last = (choice or "leave it empty" for choice in empty_last)
    listed = f"{', '.join(others)} or {last}" if others else last
    return InputError(f"{shown}: use {listed}")
