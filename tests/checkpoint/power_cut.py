"""What a disk may hold after a power cut, at any moment of a sequence of writes.

:class:`Recording` notes the directory tree before every operation that orders writes (``fsync``)
or changes names, in this process and in those that it forks. :meth:`Recording.crashes` then gives
trees that a file system may show after a power cut there: a file's content is certain only up to
its last ``fsync``, a directory's entries only up to that of the directory; whatever came later may
have reached the disk or not, each for itself.
"""

import contextlib
import os
import pickle
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

Listing = dict[str, int]  # a directory's entries: name -> inode


@dataclass(frozen=True)
class Tree:
    """All that lies below a folder: directories and files by inode."""

    root: int
    directories: dict[int, Listing]
    files: dict[int, bytes]


@dataclass(frozen=True)
class Event:
    """The tree before an operation, and the file or directory that it forces to disk, if any."""

    tree: Tree
    path: str = ""
    inode: int | None = None


class Recording:
    """Notes the operations on a folder while it is open.

    Args:
        folder: what is watched; all that lies in it counts as safely on disk.
        notes: an empty directory for the recording.
    """

    def __init__(self, folder: Path, notes: Path) -> None:
        self._folder = folder
        self._notes = notes
        self._alive = notes / "alive"  # links that keep inodes from being used again
        self._alive.mkdir(parents=True)
        self._patches = pytest.MonkeyPatch()

    def __enter__(self) -> "Recording":
        for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
            self._patches.setattr(os, name, self._noted(name, getattr(os, name)))
        return self

    def __exit__(self, *unused: object) -> None:
        self._patches.undo()
        self._note()

    def _noted(self, name: str, operation: Any) -> Any:
        def noted(*arguments: Any, **named: Any) -> Any:
            path = Path(f"/proc/self/fd/{arguments[0]}").resolve() if name == "fsync" else None
            if path is None:
                self._note()
            elif path.is_relative_to(self._folder.parent):
                self._note(str(path), os.fstat(arguments[0]).st_ino)
            return operation(*arguments, **named)

        return noted

    def _note(self, path: str = "", inode: int | None = None) -> None:
        content = pickle.dumps(Event(self._tree(), path, inode))
        number = len(os.listdir(self._notes))
        while True:  # the threads of a writer note at the same time
            with (
                contextlib.suppress(FileExistsError),
                open(self._notes / f"{number:06d}", "xb") as file,
            ):
                file.write(content)
                return
            number += 1

    def _tree(self) -> Tree:
        tree = Tree(self._folder.stat().st_ino, {}, {})
        for path, _, names in os.walk(self._folder):
            listing = tree.directories.setdefault(os.stat(path).st_ino, {})
            with os.scandir(path) as entries:
                for entry in entries:
                    listing[entry.name] = entry.inode()
            for name in names:
                file = Path(path, name)
                with contextlib.suppress(FileNotFoundError):
                    tree.files[file.stat().st_ino] = file.read_bytes()
                    with contextlib.suppress(FileExistsError):
                        os.link(file, self._alive / str(file.stat().st_ino))
        return tree

    def events(self) -> list[Event]:
        """Return what was noted, in order."""
        return [pickle.loads(path.read_bytes()) for path in sorted(self._notes.glob("[0-9]*"))]

    def crashes(
        self, chance: random.Random, each: int, ignored: str = ""
    ) -> Iterator[tuple[str, Tree]]:
        """Yield trees after a power cut before every operation: the two extremes, and random ones.

        Args:
            chance: draws the random ones.
            each: random ones for each operation.
            ignored: operations that force a path which ends so to disk do nothing, as if the code
                had left them out.
        """
        events = self.events()
        first = events[0].tree
        certain = Tree(first.root, dict(first.directories), dict(first.files))
        for number, event in enumerate(events):
            for keeps in (0.0, 1.0, *(chance.random() for _ in range(each))):
                when = f"operation {number} ({event.path or 'a name'}), {keeps:.2f}"
                yield when, _survivor(event.tree, certain, chance, keeps)
            if event.inode is None or (ignored and event.path.endswith(ignored)):
                continue
            if event.inode in event.tree.files:
                certain.files[event.inode] = event.tree.files[event.inode]
            elif event.inode in event.tree.directories:
                certain.directories[event.inode] = event.tree.directories[event.inode]


def _survivor(tree: Tree, certain: Tree, chance: random.Random, keeps: float) -> Tree:
    """Draw what is left of a tree: what is uncertain has reached the disk with ``keeps``."""
    survivor = Tree(tree.root, {}, {})
    waiting = [tree.root]
    while waiting:
        inode = waiting.pop()
        if inode in tree.files or inode in certain.files:
            survivor.files[inode] = _content(inode, tree, certain, chance, keeps)
            continue
        old, new = certain.directories.get(inode, {}), tree.directories.get(inode, {})
        listing = survivor.directories[inode] = {}
        for name in sorted(old.keys() | new.keys()):
            chosen = new if old.get(name) == new.get(name) or chance.random() < keeps else old
            if name in chosen:
                listing[name] = chosen[name]
                waiting.append(chosen[name])
    return survivor


def _content(inode: int, tree: Tree, certain: Tree, chance: random.Random, keeps: float) -> bytes:
    old, new = certain.files.get(inode, b""), tree.files.get(inode, b"")
    if inode not in tree.files or old == new:
        return old
    if chance.random() < keeps:
        return new
    return chance.choice([old, new[: len(new) // 2], bytes(len(new))])


def write_tree(tree: Tree, folder: Path) -> None:
    """Write a tree into a folder, which is emptied first."""
    shutil.rmtree(folder, ignore_errors=True)
    waiting = [(tree.root, folder)]
    while waiting:
        inode, path = waiting.pop()
        if inode in tree.files:
            path.write_bytes(tree.files[inode])
            continue
        path.mkdir()
        waiting += [(child, path / name) for name, child in tree.directories[inode].items()]
