"""What every command of ``tools/`` shares: its parser, and how it ends."""

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jsonargparse

from megatron_in2.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError

_Config = TypeVar("_Config")


class CommandParser(jsonargparse.ArgumentParser):
    """A parser with a readable example in ``--help`` and errors of one line.

    Args:
        description: the command's module docstring.
        config: a dataclass whose fields become options and keys of ``--config FILE``.
    """

    def __init__(self, description: str | None, config: type | None = None) -> None:
        super().__init__(
            description=description,
            formatter_class=_Formatter,
            exit_on_error=False,
            default_meta=False,
        )
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
            raise InputError(f"{error.message} (see --help)") from error


def config_of(options: Any, config: type[_Config]) -> _Config:
    """Return the dataclass that the fields of a parsed configuration make."""
    return config(**{name: options[name] for name in config.__annotations__})


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
        sys.exit(EXIT_INTERRUPTED)


def _complain(message: str) -> None:
    name = os.path.basename(sys.argv[0])
    print(f"{name}: error: {' '.join(message.split())}", file=sys.stderr)
