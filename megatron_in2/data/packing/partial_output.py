"""Where a preprocessing run lies while it grows, and what it needs to continue after a kill.

The folder ``.NAME.partial`` beside the prefix holds the growing files and ``journal.json``, which
says how far all of them are complete. When everything is sealed, ``sealed.json`` lists the files
that only have to be given their names.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json


class PartialOutput:
    """The partial folder of one output prefix.

    Args:
        prefix: the run's output prefix.
        fingerprint: a hash of all that the output depends on: work of another is not continued.
    """

    def __init__(self, prefix: Path, fingerprint: str) -> None:
        self._prefix = prefix
        self._fingerprint = fingerprint
        self.folder = prefix.with_name(f".{prefix.name}.partial")

    @contextmanager
    def opened(self) -> Iterator[dict[str, Any] | None]:
        """Hold the folder; yield the state to continue from, or None for a start.

        A run that fails keeps the folder if something in it can be continued from.

        Raises:
            InputError: another run holds it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / "lock", os.O_CREAT | os.O_RDWR)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InputError(f"another run is writing {self._prefix}: wait for it") from error
            yield self._state()
        finally:
            if not self._continues():
                self._remove_from(descriptor)
            os.close(descriptor)

    def record(self, state: dict[str, Any]) -> None:
        """Say how far the files are complete."""
        write_json(self.folder / "journal.json", {"fingerprint": self._fingerprint, **state})

    def publish(self, names: list[str]) -> None:
        """Give sealed files their names, in order, replacing what stands there.

        ``names`` lists them; manifests come last, so that a dataset is there only when whole.
        """
        sealed = self.folder / "sealed.json"
        write_json(sealed, {"fingerprint": self._fingerprint, "names": names})
        self._move(names)

    def published_before(self) -> bool:
        """Finish a publication that was cut off; return whether there was one."""
        sealed = self.folder / "sealed.json"
        if not sealed.is_file():
            return False
        values = read_json(sealed)
        if values["fingerprint"] != self._fingerprint:
            return False
        self._move(values["names"])
        return True

    def _move(self, names: list[str]) -> None:
        for name in names:
            if name.endswith(".json") and (self.folder / name).exists():
                (self._prefix.parent / name).unlink(missing_ok=True)
        for name in names:
            if (self.folder / name).exists():
                (self.folder / name).replace(self._prefix.parent / name)
        (self.folder / "journal.json").unlink(missing_ok=True)
        (self.folder / "sealed.json").unlink()

    def _state(self) -> dict[str, Any] | None:
        try:
            state = json.loads((self.folder / "journal.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return state if state.get("fingerprint") == self._fingerprint else None

    def _continues(self) -> bool:
        return self._state() is not None or (self.folder / "sealed.json").is_file()

    def _remove_from(self, descriptor: int) -> None:
        """Remove the folder, unless another run's lock keeps us out of it."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
