"""What every command shares: its options, its subcommands, and how it ends."""

import argparse
import ast
import os
import re
import socket
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import docstring_parser
import jsonargparse

from megatron_in2.choices import as_field, choices_in, wrong_choice
from megatron_in2.errors import (
    EXIT_BAD_INPUT,
    EXIT_INTERRUPTED,
    EXIT_REQUEUE,
    EXIT_UNFIT_NODES,
    InputError,
    TryAgainError,
    UnfitNodeError,
)

_Config = TypeVar("_Config")
_Arguments = Sequence[str] | None  # None: those of the process


class CommandParser(jsonargparse.ArgumentParser):
    """A parser with a readable example in ``--help`` and errors of one line.

    Args:
        description: the command's module docstring; ``%(prog)s`` in it is how the command was
            called.
        config: a dataclass whose fields become options and keys of ``--config FILE``. Its
            class variable ``MOVED``, if any, maps names of old fields to the new ones; its
            ``inherited``, if any, makes defaults of the fields that are given.
    """

    def __init__(self, description: str | None, config: type | None = None) -> None:
        super().__init__(
            prog=called_as(),
            # Not left to argparse: examples in a subcommand's help name the whole command.
            description=(description or "").replace("%(prog)s", called_as()),
            formatter_class=_Formatter,
            exit_on_error=False,
            default_meta=False,
        )
        self._moved: dict[str, str] = getattr(config, "MOVED", {})
        self._inherited: Callable[[dict[str, Any]], dict[str, Any]] | None
        self._inherited = getattr(config, "inherited", None)
        if config is not None:
            self.add_argument(
                "--config", action="config", help="YAML file with the fields below", required=True
            )
            self.add_class_arguments(config)

    def add_options(self, config: type, *names: str) -> None:
        """Add an option for every field of a flat dataclass, or for those named.

        ``max_cost: float`` becomes ``--max-cost``, a list takes several values, a bool (False)
        is a flag, and help is the docstring's. A closed choice is shown here and checked by the
        dataclass, see ``choices.require_choices``.
        """
        hints, meanings = get_type_hints(config), field_meanings(config)
        for item in fields(config):
            if not names or item.name in names:
                self.add_argument(
                    f"--{item.name.replace('_', '-')}",
                    help=meanings[item.name].replace("``", ""),
                    **_option_kind(hints[item.name]),
                    **_option_default(item),
                )

    def read(self, arguments: _Arguments = None) -> Any:
        """Parse the command line into a namespace whose nested groups are dataclasses.

        Raises:
            InputError: an unknown option or field, a wrong type, or an unreadable file.
        """
        try:
            if self._inherited:
                given = self.parse_args(arguments, defaults=False)
                self.set_defaults(self._inherited(given.as_dict()))
            return self.instantiate_classes(self.parse_args(arguments))
        except jsonargparse.ArgumentError as error:
            raise self._moved_field(error.message) or _refused(error.message) from error
        except UnicodeDecodeError as error:  # jsonargparse opens the file but does not say which
            raise InputError(
                f"--config: the file is not UTF-8 text ({error.reason}): name a YAML file"
            ) from error

    def _moved_field(self, message: str) -> InputError | None:
        """Return the error for a field that jsonargparse does not know any more."""
        for old, new in self._moved.items():
            section, _, name = old.rpartition(".")
            signs = (f"--{old}", f"Group '{section}' does not accept option '{name}'")
            if any(sign in message for sign in signs):
                return InputError(f"{old} has moved: write {new} instead")
        return None


def config_of(options: Any, config: type[_Config], **given: object) -> _Config:
    """Return the dataclass that parsed options make; ``given`` fields are not options."""
    hints = get_type_hints(config)
    names = [item.name for item in fields(config)]  # type: ignore[arg-type]
    values = {name: options[name] for name in names if name not in given}
    for name, value in values.items():
        if get_origin(hints[name]) is tuple:
            values[name] = tuple(value)
    return config(**values, **given)


def field_meanings(config: type) -> dict[str, str]:
    """Return what a dataclass's docstring says of each field, on one line."""
    documented = docstring_parser.parse(config.__doc__ or "").params
    return {
        each.arg_name: " ".join((each.description or "").split()).removesuffix(".")
        for each in documented
    }


def shown_choices(choices: Iterable[str]) -> str:
    """Show choices in help as argparse does: ``{a,b}``; the config that takes one checks it."""
    return "{" + ",".join(choices) + "}"


def _option_kind(hint: Any) -> dict[str, Any]:
    if hint is bool:
        return {"action": "store_true"}
    kind: dict[str, Any] = {}
    if choices := choices_in(hint):
        kind["metavar"] = shown_choices(choices)
    if get_origin(hint) in (list, tuple):
        kind["nargs"] = "+"
        hint = get_args(hint)[0]
    inner = [each for each in get_args(hint) if each is not NoneType] or [hint]
    return {**kind, "type": str if choices else inner[0]}


def _option_default(item: "Field[Any]") -> dict[str, Any]:
    if item.type is bool:
        assert item.default is False, f"{item.name}: a flag can only switch on"
        return {}
    if item.default_factory is not MISSING:
        return {"default": item.default_factory()}
    if item.default is MISSING:
        return {"required": True}
    return {"default": list(item.default) if isinstance(item.default, tuple) else item.default}


_WRONG_CHOICE = re.compile(r'"([\w.]+)":\s+Expected a typing\.Literal(\[[^]]*\])\. Got value: (.*)')


def _refused(message: str) -> InputError:
    """Return the error for what jsonargparse refuses; of a closed choice, the one all share."""
    if found := _WRONG_CHOICE.search(message):
        name, choices, value = found.groups()
        return wrong_choice(as_field(name, value), tuple(ast.literal_eval(choices)))
    return InputError(f"{message} (see --help)")


class _Formatter(jsonargparse.DefaultHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))

    def _expand_help(self, action: argparse.Action) -> str:
        # jsonargparse shows the types of plain options only as Python prints them.
        return super()._expand_help(action).replace("type: <class 'Path'>", "type: path")


@dataclass(frozen=True)
class Subcommand:
    """One of several things that a command does.

    Args:
        help: one line.
        parser: makes its parser.
        run: does it with the parsed options; returns the exit code, None for 0.
    """

    help: str
    parser: Callable[[], CommandParser]
    run: Callable[[Any], int | None]


def run_subcommand(
    description: str | None,
    subcommands: Mapping[str, Subcommand],
    arguments: _Arguments = None,
    default: str | None = None,
) -> int | None:
    """Run the subcommand that the first argument names.

    Args:
        description: the command's module docstring.
        subcommands: by name, in the order in which ``--help`` lists them.
        arguments: the command's; None takes the process's.
        default: runs where the first argument names none.

    Returns:
        The subcommand's exit code.

    Raises:
        InputError: no such subcommand or option; one of another subcommand is said to be that.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if default is not None and given[:1] not in [[name] for name in subcommands]:
        given.insert(0, default)
    if not given or given[0] not in subcommands:
        return _show_subcommands(description, subcommands, given)
    subcommand = subcommands[given[0]]
    parser = subcommand.parser()
    parser.prog = f"{parser.prog} {given[0]}"
    try:
        options = parser.read(given[1:])
    except InputError as error:
        raise _option_of_another(given, subcommands) or error from error
    return subcommand.run(options)


def _show_subcommands(
    description: str | None, subcommands: Mapping[str, Subcommand], given: list[str]
) -> int:
    """Print the command's help if asked for; refuse anything else that is no subcommand."""
    if not {"-h", "--help"} & set(given[:1]):
        shown = f"subcommand {given[0]}" if given else "no subcommand"
        raise wrong_choice(shown, tuple(subcommands))
    parser = CommandParser(description)
    group = parser.add_subcommands(dest="command")
    for name, subcommand in subcommands.items():
        group.add_subcommand(name, CommandParser(subcommand.help), help=subcommand.help)
    parser.print_help()
    return 0


def _option_of_another(
    given: list[str], subcommands: Mapping[str, Subcommand]
) -> InputError | None:
    """Return the error for an option that only other subcommands have, if one is given."""
    known = {name: list(each.parser()._option_string_actions) for name, each in subcommands.items()}
    for option in (argument.partition("=")[0] for argument in given[1:]):
        owners = [name for name, options in known.items() if option in options]
        if owners and given[0] not in owners:
            return InputError(
                f"{option} is an option of {' and '.join(owners)}, not of {given[0]}: leave it out"
            )
    return None


def called_as() -> str:
    """Return how this process was called: ``in2 train``, ``python tools/train.py``."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if not sys.argv[0].endswith(".py"):  # the console script has put its own name there
        return os.path.basename(sys.argv[0])
    if spec is not None:
        return f"python -m {spec.name.removesuffix('.__main__')}"
    path = os.path.relpath(sys.argv[0])
    return f"python {sys.argv[0] if path.startswith(os.pardir) else path}"


def run_command(command: Callable[[], int | None]) -> None:
    """Run a command's main function and end the process with the exit code that its outcome means.

    0 on success, 2 with one line on stderr for bad input (an ``InputError``, or an operating
    system error that names a file), 69 for an ``UnfitNodeError``, 75 for a ``TryAgainError``, 130
    on Ctrl-C. Anything else is a defect of ours and keeps its traceback.
    """
    try:
        sys.exit(command() or 0)
    except InputError as error:
        _complain(str(error))
        sys.exit(EXIT_BAD_INPUT)
    except UnfitNodeError as error:
        _complain(f"{socket.gethostname()} is unfit: {error}")
        sys.exit(EXIT_UNFIT_NODES)
    except TryAgainError as error:
        _complain(str(error))
        sys.exit(EXIT_REQUEUE)
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
    print(f"{called_as()}: error: {' '.join(message.split())}", file=sys.stderr)
