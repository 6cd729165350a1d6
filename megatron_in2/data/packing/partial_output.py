"""Where a run lies while it grows, and what it needs to continue after a kill.

The folder ``.NAME.partial`` beside the prefix holds the growing files and ``journal.json``, which
says how far all of them are complete. When everything is sealed, ``sealed.json`` lists the files
that only have to be given their names.

Both are read by the run that wrote them alone: one with the same settings, the same content of
its inputs, and the same segment stores. What another run left is removed before anything is
written; only a result that another run has finished is kept and named.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_file, write_json

JOURNAL, SEAL, LOCK = "journal.json", "sealed.json", "lock"
Stores = dict[str, dict[str, Any]]


def _always(stores: Stores) -> bool:
    return True


class PartialOutput:
    """The partial folder of one output prefix.

    Args:
        prefix: the run's output prefix.
        fingerprint: a hash of all that the output depends on and that is known at the start.
        overwrite: a finished result of another run may be removed.
        are_current: whether segment stores, found while the input was read, are still the same.
    """

    def __init__(
        self,
        prefix: Path,
        fingerprint: str,
        overwrite: bool = False,
        are_current: Callable[[Stores], bool] = _always,
    ) -> None:
        self._prefix = prefix
        self._fingerprint = fingerprint
        self._overwrite = overwrite
        self._are_current = are_current
        self.folder = prefix.with_name(f".{prefix.name}.partial")

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any] | None]:
        """Hold the folder; yield the state to continue from, or None for a start.

        A run that fails keeps the folder if something in it can be continued from.

        Raises:
            InputError: another run holds the folder, or has finished in it.
        """
        descriptor = self._locked()
        try:
            self._remove_what_is_not_ours()
            yield self._read(JOURNAL)
        finally:
            if self._read(JOURNAL) is None and self._read_any(SEAL) is None:
                shutil.rmtree(self.folder, ignore_errors=True)
            os.close(descriptor)

    def record(self, state: dict[str, Any], stores: Stores) -> None:
        """Say how far the files are complete."""
        self._write(JOURNAL, {"stores": stores, **state})

    def publish(self, names: list[str], stores: Stores) -> None:
        """Give sealed files their names, in order, replacing those that have them.

        Args:
            names: manifests come last, so that a dataset is there only when whole.
            stores: what they were made from.
        """
        sizes = {name: (self.folder / name).stat().st_size for name in names}
        manifests = {
            name: sha256_of_file(self.folder / name) for name in names if name.endswith(".json")
        }
        self._write(SEAL, {"stores": stores, "sizes": sizes, "manifests": manifests})
        self._move(names)

    def published_before(self) -> bool:
        """Finish a publication that was cut off; return whether there was one."""
        sealed = self._read(SEAL)
        if sealed is None:
            return False
        self._move(list(sealed["sizes"]))
        return True

    def _move(self, names: list[str]) -> None:
        for name in names:
            if name.endswith(".json") and (self.folder / name).exists():
                (self._prefix.parent / name).unlink(missing_ok=True)
        for name in names:
            if (self.folder / name).exists():
                (self.folder / name).replace(self._prefix.parent / name)
        (self.folder / JOURNAL).unlink(missing_ok=True)
        (self.folder / SEAL).unlink()

    def _locked(self) -> int:
        """Create the folder and lock it; return the lock's descriptor."""
        while True:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                descriptor = os.open(self.folder / LOCK, os.O_CREAT | os.O_RDWR)
            except FileNotFoundError:  # another run has just removed the folder
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise InputError(f"another run is writing {self._prefix}: wait for it") from error
            if _is_file(descriptor, self.folder / LOCK):
                return descriptor
            os.close(descriptor)  # a lock in a folder that is gone holds nothing

    def _remove_what_is_not_ours(self) -> None:
        """Leave our own journal, or our own seal with all its files, or nothing."""
        sealed = self._read(SEAL)
        if sealed is not None and self._is_whole(sealed):
            return
        if sealed is None and self._read_any(SEAL) is not None and not self._overwrite:
            raise InputError(
                f"{self.folder} holds the finished result of a run with other settings or inputs: "
                "start that run again to publish it, or pass --overwrite to remove it"
            )
        if sealed is None and self._read(JOURNAL) is not None and not self._has_seal():
            return
        # What says that files are complete goes before them.
        paths = [path for path in self.folder.iterdir() if path.name != LOCK]
        for path in sorted(paths, key=lambda path: path.name not in (SEAL, JOURNAL)):
            path.unlink()

    def _is_whole(self, sealed: dict[str, Any]) -> bool:
        """Whether every sealed file is there as it was sealed, moved already or not."""
        for name, size in sealed["sizes"].items():
            path = self.folder / name
            if not path.is_file():
                path = self._prefix.parent / name
            if not path.is_file() or path.stat().st_size != size:
                return False
            if name in sealed["manifests"] and sha256_of_file(path) != sealed["manifests"][name]:
                return False
        return True

    def _has_seal(self) -> bool:
        return (self.folder / SEAL).exists()

    def _write(self, name: str, values: dict[str, Any]) -> None:
        write_json(self.folder / name, {"fingerprint": self._fingerprint, **values})

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return what this run wrote, or None."""
        values = self._read_any(name)
        if values is None or values.get("fingerprint") != self._fingerprint:
            return None
        return values if self._are_current(values["stores"]) else None

    def _read_any(self, name: str) -> dict[str, Any] | None:
        try:
            values = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return values if isinstance(values, dict) else None


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
