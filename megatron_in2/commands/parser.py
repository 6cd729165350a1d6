"""What every command of ``tools/`` shares: its parser, and how it ends."""

import os
import sys
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import jsonargparse

from megatron_in2.errors import EXIT_BAD_INPUT, InputError

_Config = TypeVar("_Config")


class CommandParser(jsonargparse.ArgumentParser):
    """A parser with a readable example in ``--help`` and errors of one line.

    Args:
        description: the command's module docstring.
        config: a dataclass whose fields become options and keys of ``--config FILE``. Its
            class variable ``MOVED``, if any, maps names of old fields to the new ones.
    """

    def __init__(self, description: str | None, config: type | None = None) -> None:
        super().__init__(
            description=description,
            formatter_class=_Formatter,
            exit_on_error=False,
            default_meta=False,
        )
        self._moved: dict[str, str] = getattr(config, "MOVED", {})
        if config is not None:
            self.add_argument(
                "--config", action="config", help="YAML file with the fields below", required=True
            )
            self.add_class_arguments(config)

    def read(self, arguments: list[str] | None = None) -> Any:
        """Parse the command line into a namespace whose nested groups are dataclasses.

        Raises:
            InputError: an unknown option or field, a wrong type, or an unreadable file.
        """
        try:
            return self.instantiate_classes(self.parse_args(arguments))
        except jsonargparse.ArgumentError as error:
            complaint = self._moved_field(error.message) or f"{error.message} (see --help)"
            raise InputError(complaint) from error

    def _moved_field(self, message: str) -> str:
        """Return where the field is now that jsonargparse does not know; empty for other errors."""
        for old, new in self._moved.items():
            section, _, name = old.rpartition(".")
            signs = (f"--{old}", f"Group '{section}' does not accept option '{name}'")
            if any(sign in message for sign in signs):
                return f"{old} has moved: write {new} instead"
        return ""


def config_of(options: Any, config: type[_Config]) -> _Config:
    """Return the dataclass that the fields of a parsed configuration make."""
    return config(**{item.name: options[item.name] for item in fields(config)})  # type: ignore[arg-type]


class _Formatter(jsonargparse.DefaultHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))


def run_command(command: Callable[[], int | None]) -> None:
    """Run a command's main function and end the process with the exit code that its outcome means.

    0 on success, 2 with one line on stderr for bad input (an ``InputError``, or an operating
    system error that names a file), 130 on Ctrl-C. Anything else is a defect of ours and keeps
    its traceback.
    """
    try:
        sys.exit(command() or 0)
    except InputError as error:
        _complain(str(error))
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        if error.errno is None:
            raise
        where = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"{where}{error.strerror}")
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        _complain("interrupted")
        sys.exit(130)


def _complain(message: str) -> None:
    name = os.path.basename(sys.argv[0])
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
