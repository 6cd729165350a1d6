"""Which requests have an answer, in memory: 16 bytes each.

Numbers follow the order of asking, and a run that goes on asks in about the same order: looking
an answer up by number reads the file from front to back, while keys lie all over its index.
"""

import sqlite3
from bisect import bisect_left
from threading import Lock

import numpy as np

_MERGED_KEYS = 50_000  # new keys are merged into the sorted arrays when there are more


class AnsweredRequests:
    """The numbers of requests that have an answer, by the first 8 bytes of their keys.

    Args:
        database: a journal.
    """

    def __init__(self, database: sqlite3.Connection) -> None:
        rows = database.execute("SELECT hash, id FROM answers JOIN requests ON id = request")
        pairs = np.fromiter(((_short(key), number) for key, number in rows), np.dtype("u8,u8"))
        self._set(pairs["f0"], pairs["f1"])
        self._new: dict[int, int] = {}
        self._lock = Lock()

    def add(self, key: bytes, number: int) -> None:
        """Note that a request has an answer."""
        with self._lock:
            self._new[_short(key)] = number

    def number(self, key: bytes) -> int | None:
        """Return the number of a request that seems to have an answer; its key must be compared."""
        if len(self._new) > _MERGED_KEYS:
            self._merge()
        short = _short(key)
        place = bisect_left(self._keys, short)
        if place < len(self._keys) and self._keys[place] == short:
            return int(self._numbers[place])
        return self._new.get(short)

    def _merge(self) -> None:
        with self._lock:  # a commit may add at the same time
            keys = np.fromiter(self._new.keys(), np.uint64, len(self._new))
            numbers = np.fromiter(self._new.values(), np.uint64, len(self._new))
            self._new = {}
        self._set(np.append(self._keys, keys), np.append(self._numbers, numbers))

    def _set(self, keys: np.ndarray, numbers: np.ndarray) -> None:
        order = np.argsort(keys, kind="stable")
        # As memory views: looking at single numbers of an array takes four times as long.
        self._keys, self._numbers = keys[order].data, numbers[order].data


def _short(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")
