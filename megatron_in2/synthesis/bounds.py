"""Checks of numbers in settings; each message names the field, its value and what it must be."""

import math
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from megatron_in2.errors import InputError


def require_counts(section: str, config: Any, *names: str) -> None:
    """Check that fields are 1 or more; raises InputError."""
    for name in names:
        if (value := getattr(config, name)) < 1:
            raise InputError(f"{section}.{name}={value}: must be 1 or more")


def require_not_negative(section: str, config: Any, *names: str) -> None:
    """Check that fields, which may be None, are 0 or more; raises InputError."""
    for name in names:
        if ((value := getattr(config, name)) or 0) < 0:
            raise InputError(f"{section}.{name}={value}: must not be < 0")


def require_shares(section: str, config: Any, *names: str) -> None:
    """Check that fields are from 0 to 1; raises InputError."""
    for name in names:
        if not 0 <= (value := getattr(config, name)) <= 1:
            raise InputError(f"{section}.{name}={value:g}: must be from 0 to 1")


def require_durations(section: str, config: Any, *names: str) -> None:
    """Check that fields are more than 0; raises InputError."""
    for name in names:
        if (value := getattr(config, name)) <= 0:
            raise InputError(f"{section}.{name}={value:g}: must be more than 0")


def require_finite(config: Any, prefix: str = "") -> None:
    """Check that no number in a dataclass is infinite or not a number; raises InputError."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            require_finite(value, f"{prefix}{each.name}.")
        for name, number in _numbers(value, f"{prefix}{each.name}"):
            if not math.isfinite(number):
                raise InputError(f"{name}={number}: must be a finite number")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield the name and value of every float in a field, also inside lists and dicts."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _numbers(child, f"{name}.{key}")
    elif isinstance(value, list):
        for child in value:
            yield from _numbers(child, name)
