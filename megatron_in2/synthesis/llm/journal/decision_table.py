"""The journal's table of decisions: what became of each question under the latest conditions."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

_CONDITIONS = "conditions of the decisions"  # a note


class DecisionTable:
    """Rows by kind and place in that kind's order: a run that goes on reads them front to back.

    Args:
        database: the journal's.
        transaction: commits what is written in it.
    """

    def __init__(
        self,
        database: sqlite3.Connection,
        transaction: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._database = database
        self._transaction = transaction

    def require_conditions(self, conditions: str) -> None:
        """Forget all decisions if they were taken under other conditions."""
        query = "SELECT value FROM notes WHERE name = ?"
        if self._database.execute(query, (_CONDITIONS,)).fetchone() == (conditions,):
            return
        with self._transaction():
            self._database.execute("DELETE FROM decisions")
            self._database.execute(
                "INSERT OR REPLACE INTO notes VALUES (?, ?)", (_CONDITIONS, conditions)
            )

    def between(self, kind: str, first: int, end: int) -> dict[int, bytes]:
        """Return the decisions of a kind from one place up to another, by place."""
        query = "SELECT place, outcome FROM decisions WHERE kind = ? AND place >= ? AND place < ?"
        return dict(self._database.execute(query, (kind, first, end)).fetchall())

    def add(self, rows: Sequence[tuple[str, int, bytes]]) -> None:
        """Write (kind, place, outcome) of some questions."""
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?)", rows)
