"""The journal of paid calls: every request and its answer in sqlite, written before it is used.

    requests   payload hash, payload
    attempts   one row a try: sent | answered | refused (not billed) | lost (perhaps billed)
    answers    payload hash, the server's reply as it came
    batches, batch_requests   what was handed to the Batch API and how far it went
    notes      small facts about the server

A row stays ``sent`` only when the process died in between: such requests are asked again. Every
change is committed at once, so that it outlives the process; answers are synced to the disk too,
so that they outlive a power cut. One process at a time can open a journal.
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (hash TEXT PRIMARY KEY, payload TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, hash TEXT NOT NULL, outcome TEXT NOT NULL, error TEXT,
    started REAL NOT NULL, ended REAL, worst_cost REAL NOT NULL, cost REAL NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS attempts_of_hash ON attempts (hash);
CREATE TABLE IF NOT EXISTS answers (hash TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY, started REAL NOT NULL, file TEXT, remote TEXT, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_requests (batch TEXT NOT NULL, hash TEXT NOT NULL, attempt INTEGER,
    PRIMARY KEY (batch, hash)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class JournalSummary:
    """What a journal holds; costs in US dollars.

    ``sent_unanswered`` died with a process; ``possible_cost`` is the most that they and the lost
    attempts may have cost beyond ``cost``.
    """

    answers: int
    attempts: int
    refused: int
    lost: int
    sent_unanswered: int
    cost: float
    possible_cost: float
    completion_tokens: int


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is not collected yet: its attempts' ids and worst costs by payload hash."""

    token: str
    started: float
    file: str | None
    remote: str | None
    attempts: dict[str, int]
    worst_costs: dict[str, float]


def payload_hash(payload: dict[str, Any]) -> str:
    """Return the hash that names a request: the same payload, the same name."""
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


class Journal:
    """A journal, open for this process alone.

    Args:
        path: the sqlite file; made if absent.

    Raises:
        InputError: it is no journal, another run holds it ("database is locked"), or a full disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named_errors():
            self._database = sqlite3.connect(path, timeout=1.0)
            # Exclusive: no second run, and no shared memory, which network disks lack.
            self._database.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.executescript(_SCHEMA)

    def close(self) -> None:
        self._database.close()

    def answer(self, key: str) -> dict[str, Any] | None:
        """Return the journalled reply to a request, or None."""
        row = self._database.execute("SELECT reply FROM answers WHERE hash = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def begin(self, key: str, payload: dict[str, Any], worst_cost: float) -> int:
        """Write down that a request is about to be sent; return the attempt's id."""
        with self._transaction() as database:
            return self._begin(database, key, payload, worst_cost)

    def finish(
        self, attempt: int, key: str, reply: dict[str, Any], cost: float, completion_tokens: int
    ) -> None:
        """Write down a request's reply."""
        with self._transaction(synced=True) as database:
            self._finish(database, attempt, key, reply, cost, completion_tokens)

    def fail(self, attempt: int, error: str, perhaps_billed: bool) -> None:
        """Write down that an attempt brought no reply."""
        with self._transaction() as database:
            self._fail(database, attempt, error, perhaps_billed)

    def attempts_of(self, key: str) -> int:
        """Return how often a request was tried."""
        query = "SELECT COUNT(*) FROM attempts WHERE hash = ?"
        return int(self._database.execute(query, (key,)).fetchone()[0])

    def note(self, name: str, value: str) -> None:
        """Keep a small fact, such as what the server cannot do."""
        with self._transaction() as database:
            database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def noted(self, name: str) -> str | None:
        """Return a fact that was kept, or None."""
        row = self._database.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def begin_batch(
        self, token: str, requests: Iterable[tuple[str, dict[str, Any], float]]
    ) -> OpenBatch:
        """Write down a batch of (hash, payload, worst cost) before anything of it is sent."""
        started = time.time()
        with self._transaction() as database:
            database.execute(
                "INSERT INTO batches VALUES (?, ?, NULL, NULL, 'open')", (token, started)
            )
            attempts, worst_costs = {}, {}
            for key, payload, worst_cost in requests:
                worst_costs[key] = worst_cost
                attempts[key] = self._begin(database, key, payload, worst_cost)
                database.execute(
                    "INSERT INTO batch_requests VALUES (?, ?, ?)", (token, key, attempts[key])
                )
        return OpenBatch(token, started, None, None, attempts, worst_costs)

    def update_batch(self, token: str, file: str | None, remote: str | None) -> None:
        """Write down the server's names for a batch."""
        with self._transaction() as database:
            database.execute(
                "UPDATE batches SET file = ?, remote = ? WHERE token = ?", (file, remote, token)
            )

    def finish_batch(
        self,
        batch: OpenBatch,
        replies: dict[str, tuple[dict[str, Any], float, int]],
        failures: dict[str, str],
    ) -> None:
        """Write down all that a batch brought, at once: it is collected wholly or not at all.

        Args:
            batch: the batch.
            replies: (reply, cost, completion tokens) by payload hash.
            failures: what went wrong by payload hash; such requests were not billed.
        """
        with self._transaction(synced=True) as database:
            for key, (reply, cost, tokens) in replies.items():
                self._finish(database, batch.attempts[key], key, reply, cost, tokens)
            for key, error in failures.items():
                self._fail(database, batch.attempts[key], error, perhaps_billed=False)
            database.execute("UPDATE batches SET state = 'done' WHERE token = ?", (batch.token,))

    def open_batches(self) -> list[OpenBatch]:
        """Return the batches that a stopped run left behind."""
        rows = self._database.execute(
            "SELECT token, started, file, remote FROM batches WHERE state = 'open' ORDER BY started"
        ).fetchall()
        query = (
            "SELECT b.hash, b.attempt, a.worst_cost FROM batch_requests b "
            "JOIN attempts a ON a.id = b.attempt WHERE b.batch = ?"
        )
        batches = []
        for token, started, file, remote in rows:
            requests = self._database.execute(query, (token,)).fetchall()
            attempts = {key: attempt for key, attempt, _ in requests}
            worst_costs = {key: cost for key, _, cost in requests}
            batches.append(OpenBatch(token, started, file, remote, attempts, worst_costs))
        return batches

    def payload(self, key: str) -> dict[str, Any]:
        """Return a journalled request."""
        query = "SELECT payload FROM requests WHERE hash = ?"
        payload: dict[str, Any] = json.loads(self._database.execute(query, (key,)).fetchone()[0])
        return payload

    def summary(self) -> JournalSummary:
        """Count what the journal holds."""
        query = """
            SELECT COUNT(*), COALESCE(SUM(outcome = 'refused'), 0),
                COALESCE(SUM(outcome = 'lost'), 0), COALESCE(SUM(outcome = 'sent'), 0),
                COALESCE(SUM(cost), 0.0), COALESCE(SUM(completion_tokens), 0),
                COALESCE(SUM(CASE WHEN outcome IN ('lost', 'sent') THEN worst_cost END), 0.0)
            FROM attempts"""
        attempts, refused, lost, sent, cost, tokens, possible = self._database.execute(
            query
        ).fetchone()
        answers = self._database.execute("SELECT COUNT(*) FROM answers").fetchone()[0]
        return JournalSummary(answers, attempts, refused, lost, sent, cost, possible, tokens)

    @staticmethod
    def _begin(
        database: sqlite3.Connection, key: str, payload: dict[str, Any], worst_cost: float
    ) -> int:
        text = json.dumps(payload, ensure_ascii=False)
        database.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", (key, text))
        cursor = database.execute(
            "INSERT INTO attempts (hash, outcome, started, worst_cost) VALUES (?, 'sent', ?, ?)",
            (key, time.time(), worst_cost),
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    @staticmethod
    def _finish(
        database: sqlite3.Connection,
        attempt: int,
        key: str,
        reply: dict[str, Any],
        cost: float,
        completion_tokens: int,
    ) -> None:
        database.execute(
            "UPDATE attempts SET outcome = 'answered', ended = ?, cost = ?, completion_tokens = ? "
            "WHERE id = ?",
            (time.time(), cost, completion_tokens, attempt),
        )
        text = json.dumps(reply, ensure_ascii=False)
        # The first reply stands: what was used once is never replaced.
        database.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (key, text))

    @staticmethod
    def _fail(database: sqlite3.Connection, attempt: int, error: str, perhaps_billed: bool) -> None:
        database.execute(
            "UPDATE attempts SET outcome = ?, ended = ?, error = ? WHERE id = ?",
            ("lost" if perhaps_billed else "refused", time.time(), error, attempt),
        )

    @contextmanager
    def _transaction(self, synced: bool = False) -> Iterator[sqlite3.Connection]:
        with self._named_errors():
            self._database.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            with self._database as database:
                yield database

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"journal {self.path}: {error}; what was committed is intact: "
                "mend the cause and run again"
            ) from error
