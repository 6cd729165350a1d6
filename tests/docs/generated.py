"""The generated parts of docs/: ``make docs`` writes them, a test compares them.

A part lies between ``<!-- generated: NAME ARGUMENT -->`` and ``<!-- end -->``.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_type_hints

from megatron_in2.choices import choices_in
from megatron_in2.commands.parser import field_meanings
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.training.config import TrainConfig
from tests.conftest import ROOT
from tests.docs.ladder import ladder_table, price_table
from tests.docs.parsers import command_parsers, options_of

DOCS = ROOT / "docs"
_PART = re.compile(r"(<!-- generated: (\w+) (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_CONFIGS = {"training": TrainConfig, "synthesis": SynthesisConfig}


def field_table(name: str) -> str:
    """Return the table of all fields of a configuration, from its dataclasses."""
    return _table(("field", "default", "meaning"), _field_rows(_CONFIGS[name]))


def option_tables(tool: str) -> str:
    """Return a table of a command's own options, one for each subcommand."""
    tables = []
    for name, parser in command_parsers(tool).items():
        rows = [_option_row(option, action) for option, action in options_of(parser).items()]
        config = "--config" in parser._option_string_actions
        if config:
            rows.insert(0, ("`--config`", "required", "YAML file with the fields of the config"))
        title = f"`{tool}.py {name}`:\n\n" if name else ""
        tables.append(title + _table(("option", "default", "meaning"), rows))
    return "\n".join(tables)


def budget_table(name: str) -> str:
    """Return a table of docs/budget.md."""
    head, *rows = {"ladder": ladder_table, "prices": price_table}[name]()
    return _table(head, rows)


def refresh(text: str) -> str:
    """Return a page with its generated parts made anew."""
    makers = {"fields": field_table, "options": option_tables, "budget": budget_table}
    return _PART.sub(lambda part: f"{part[1]}{makers[part[2]](part[3])}{part[4]}", text)


def _field_rows(config: type, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    hints, meanings = get_type_hints(config), field_meanings(config)
    for item in fields(config):  # type: ignore[arg-type]
        default = item.default if item.default_factory is MISSING else item.default_factory()
        if is_dataclass(default):
            yield from _field_rows(type(default), f"{prefix}{item.name}.")
            continue
        meaning = _with_choices(meanings[item.name], choices_in(hints[item.name]))
        yield f"`{prefix}{item.name}`", f"`{_shown(default)}`", meaning


def _option_row(option: str, action: Any) -> tuple[str, str, str]:
    default = "required" if action.required else f"`{_shown(action.default)}`"
    if action.nargs == 0 or action.default in (None, []):
        default = "required" if action.required else ""
    shown = str(action.metavar or "")
    choices = shown.strip("{}").split(",") if shown.startswith("{") else ()
    return f"`{option}`", default, _with_choices(action.help or "", choices)


def _with_choices(meaning: str, choices: Iterable[str]) -> str:
    """Add the closed choices to a meaning that does not name them all."""
    if all(choice in meaning for choice in choices):
        return meaning
    return f"{meaning}: {', '.join(f'`{choice}`' for choice in choices if choice)}"


def _shown(default: object) -> str:
    if isinstance(default, list | tuple) and default:
        return " ".join(map(str, default))
    return '""' if default == "" else str(default)


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, ("---",) * len(head), *rows]
    cells = ((cell.replace("|", "or").replace("``", "`") for cell in line) for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (new := refresh(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"{page.relative_to(ROOT)} is written anew")
