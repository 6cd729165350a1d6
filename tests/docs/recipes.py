"""Follows the recipes of docs/extending.md: writes their files, applies their changes."""

import re
from dataclasses import dataclass
from pathlib import Path

_SECTION = re.compile(r"^## (.*)$", re.MULTILINE)
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NEW_FILE = re.compile(r"# new file: (\S+)\n(.*)", re.DOTALL)
_CHANGED_FILE = re.compile(r"# (\S+)\n(.*)", re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """One section of the page.

    Args:
        title: its heading.
        files: path -> text of each new file.
        changes: (path, old text, new text), in order.
        commands: what proves it.
    """

    title: str
    files: dict[str, str]
    changes: tuple[tuple[str, str, str], ...]
    commands: tuple[str, ...]


def read_recipes(page: Path) -> list[Recipe]:
    """Return the recipes of a page: its sections with blocks of code."""
    _, *sections = _SECTION.split(page.read_text(encoding="utf-8"))
    recipes = []
    for title, text in zip(sections[::2], sections[1::2], strict=True):
        files: dict[str, str] = {}
        changes: list[tuple[str, str, str]] = []
        commands: list[str] = []
        for kind, block in _BLOCK.findall(text):
            if kind == "diff":
                path, lines = _match(_CHANGED_FILE, block)
                changes += [(path, *_hunk(hunk)) for hunk in lines.split("@@\n")]
            elif kind == "bash":
                commands.append(block)
            elif new := _NEW_FILE.fullmatch(block):
                files[new[1]] = new[2]
        if commands:
            recipes.append(Recipe(title, files, tuple(changes), tuple(commands)))
    return recipes


def follow(recipe: Recipe, root: Path) -> None:
    """Write a recipe's files and apply its changes below a folder.

    Raises:
        ValueError: a file exists already, or a change's lines are not in their file exactly once.
    """
    for name, text in recipe.files.items():
        path = root / name
        if path.exists():
            raise ValueError(f"{recipe.title}: {name} exists already")
        path.write_text(text, encoding="utf-8")
    for name, old, new in recipe.changes:
        text = (root / name).read_text(encoding="utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{recipe.title}: {name} has {text.count(old)} times:\n{old}")
        (root / name).write_text(text.replace(old, new), encoding="utf-8")


def _match(pattern: re.Pattern[str], text: str) -> tuple[str, str]:
    found = pattern.fullmatch(text)
    assert found is not None, text
    return found[1], found[2]


def _hunk(text: str) -> tuple[str, str]:
    """Return the lines before and after a change."""
    lines = [(line[:1], line[1:]) for line in text.splitlines(keepends=True)]
    old = "".join(rest for mark, rest in lines if mark in " -\n")
    new = "".join(rest for mark, rest in lines if mark in " +\n")
    return old, new
