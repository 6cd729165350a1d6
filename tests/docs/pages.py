"""What the Markdown pages contain: commands, links, headings, and names in code style."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT

HISTORY = ROOT / "CHANGELOG.md"  # names what no longer exists
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")} - {HISTORY})
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_ASSIGNMENT = re.compile(r"\w+=")
_SEPARATORS = {"|", ";", "&&", "||"}


@dataclass(frozen=True)
class Command:
    """A command that a page shows.

    Args:
        page: the page.
        words: its words as a shell splits them, without assignments and redirections.
    """

    page: Path
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.name}: {' '.join(self.words)}"


def commands() -> list[Command]:
    """Return all commands of the pages' fenced ``console`` and ``bash`` blocks."""
    return [
        Command(page, words)
        for page in PAGES
        for kind, block in _FENCE.findall(page.read_text(encoding="utf-8"))
        if kind in ("console", "bash")
        for line in _command_lines(kind, block)
        for words in _split(line)
    ]


def _command_lines(kind: str, block: str) -> Iterator[str]:
    """Yield the command lines of a block, continued lines joined; output is left out."""
    lines = iter(block.splitlines())
    for line in lines:
        if kind == "console":
            if not line.startswith("$ "):
                continue
            line = line.removeprefix("$ ")
        while line.endswith("\\"):
            line = line.removesuffix("\\") + next(lines)
        if line.strip():
            yield line


def _split(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each simple command of a line."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if word in _SEPARATORS:
            if words:
                yield tuple(words)
            words = []
        elif skip:  # the file of a redirection
            skip = False
        elif set(word) <= set("<>&"):
            skip = True
        elif words or not _ASSIGNMENT.match(word):
            words.append(word)


def links() -> list[tuple[Path, str]]:
    """Return every link to a file or heading of this repository, with its page."""
    return [
        (page, target)
        for page in PAGES
        for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
        if not re.match(r"\w+:", target)
    ]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def code_names() -> list[tuple[Path, str]]:
    """Return everything in code style outside fenced blocks, with its page."""
    return [
        (page, name)
        for page in PAGES
        for name in _CODE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))
    ]
