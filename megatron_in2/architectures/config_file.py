"""Typed access to the fields of a ``config.json``, with errors that name file and field."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json


@dataclass(frozen=True)
class ConfigFile:
    """The fields of one ``config.json``. A field that is null counts as absent."""

    path: Path
    values: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> "ConfigFile":
        """Read the file.

        Raises:
            InputError: it does not exist, is not JSON, or is not an object.
        """
        values = read_json(path)
        if not isinstance(values, dict):
            raise InputError(f"{path} is not a JSON object")
        return cls(path, values)

    def get(self, name: str, default: Any = None) -> Any:
        """Return the value of a field without a check."""
        value = self.values.get(name)
        return default if value is None else value

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number.

        Raises:
            InputError: it is missing and has no default, or is no number.
        """
        value = self.get(name, default)
        if value is None:
            raise InputError(f"{self.path}: field {name} is missing")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"{self.path}: field {name}={value!r} must be a number")
        return float(value)

    def size(self, name: str, default: int | None = None) -> int:
        """Return a whole number of 1 or more.

        Raises:
            InputError: it is missing and has no default, or is something else.
        """
        value = self.number(name, default)
        if value != int(value) or value < 1:
            raise InputError(
                f"{self.path}: field {name}={self.values[name]!r} must be a whole number from 1"
            )
        return int(value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return true or false.

        Raises:
            InputError: it is something else.
        """
        value = self.get(name, default)
        if not isinstance(value, bool):
            raise InputError(f"{self.path}: field {name}={value!r} must be true or false")
        return value

    def section(self, name: str) -> "ConfigFile":
        """Return the fields of an object-valued field; no fields if it is absent.

        Raises:
            InputError: the field is not an object.
        """
        value = self.get(name, {})
        if not isinstance(value, dict):
            raise InputError(f"{self.path}: field {name}={value!r} must be an object")
        return ConfigFile(self.path, value)

    def refusal(self, name: str, reason: str) -> InputError:
        """Return the error for a refused value of a field."""
        return InputError(f"{self.path}: {name}={self.values.get(name)!r}: {reason}")
