"""The parsers of all commands, by the command line that reaches them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from functools import cache
from importlib import import_module
from typing import Any

from megatron_in2.__main__ import COMMANDS
from megatron_in2.commands.parser import CommandParser
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.training.config import TrainConfig

_CONFIG_FIELDS = {item.name for config in (TrainConfig, SynthesisConfig) for item in fields(config)}


class _Captured(Exception):  # noqa: N818  (ends a command, is no error)
    def __init__(self, parser: CommandParser) -> None:
        self.parser = parser


@contextmanager
def _reading_raises() -> Iterator[None]:
    """Make every parser leave the command with itself instead of reading arguments."""

    def capture(parser: CommandParser, _: object = None) -> Any:
        raise _Captured(parser)

    original = CommandParser.read
    CommandParser.read = capture  # type: ignore[method-assign]
    try:
        yield
    finally:
        CommandParser.read = original  # type: ignore[method-assign]


def _parser_of(module: str) -> CommandParser:
    with _reading_raises():
        try:
            import_module(f"megatron_in2.{module}").main([])
        except _Captured as captured:
            return captured.parser
    raise AssertionError(f"{module} reads no arguments")


@cache
def command_parsers(tool: str) -> dict[str, CommandParser]:
    """Return the parser of each subcommand, or of the command itself under an empty name.

    Args:
        tool: the name of a file in ``tools/``, without its ending.
    """
    modules = {tool_of(each.module): each.module for each in COMMANDS.values()}
    subcommands = getattr(import_module(f"megatron_in2.{modules[tool]}"), "SUBCOMMANDS", None)
    if subcommands is None:
        return {"": _parser_of(modules[tool])}
    return {name: subcommand.parser() for name, subcommand in subcommands.items()}


def tool_of(module: str) -> str:
    """Return the file of ``tools/`` that starts a module's command, without its ending."""
    folder, _, name = module.rpartition(".")
    return name if folder == "commands" else folder


def options_of(parser: CommandParser) -> dict[str, Any]:
    """Return the parser's own arguments by how they are typed; fields of a config are left out."""
    found: dict[str, Any] = {}
    has_config = "--config" in parser._option_string_actions
    for action in parser._actions:
        if not action.option_strings:
            found[action.dest.upper()] = action
            continue
        option = next(name for name in action.option_strings if name.startswith("--"))
        of_config = has_config and action.dest.partition(".")[0] in _CONFIG_FIELDS
        if not of_config and option not in ("--help", "--config", "--print_config"):
            found[option] = action
    return found
