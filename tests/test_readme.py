"""The README stays true: its table of fields, its tree, its commands."""

from dataclasses import MISSING, fields

import docstring_parser
import pytest

from megatron_in2.training.config import TrainConfig
from tests.conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def field_table() -> list[str]:
    """The rows of the README's configuration table, made from the dataclasses themselves."""
    rows = []
    for section in fields(TrainConfig):
        config = section.default_factory
        assert config is not MISSING
        documented = docstring_parser.parse(config.__doc__ or "").params
        meanings = {
            each.arg_name: " ".join((each.description or "").split()) for each in documented
        }
        for item in fields(config):  # type: ignore[arg-type]
            default = item.default if item.default != "" else '""'
            meaning = meanings[item.name].replace("|", "or").removesuffix(".")
            rows.append(f"| `{section.name}.{item.name}` | `{default}` | {meaning} |")
    return rows


@pytest.mark.parametrize("row", field_table())
def test_every_field_stands_in_the_table(row: str) -> None:
    assert row in README


def test_the_tree_names_every_room() -> None:
    for path in (ROOT / "megatron_in2").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"  {path.name}/" in README, path
        elif path.suffix == ".py" and path.name != "__init__.py":
            assert f"  {path.name}" in README, path


@pytest.mark.parametrize("tool", sorted(path.name for path in (ROOT / "tools").glob("*.py")))
def test_every_command_is_shown(tool: str) -> None:
    assert tool == "quickstart.py" or f"### `tools/{tool}`" in README
