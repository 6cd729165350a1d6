"""The journal of paid calls: every request and its answer in sqlite, written before it is used.

    requests       key (16 bytes) and packed payload of every request
    attempts       one row a try: sent | answered | refused (not billed) | lost (perhaps billed)
    answers        the server's reply as it came, packed
    refusals       requests that were given up: refused by the server, or failed too often
    batches, batch_requests   what was handed to the Batch API and how far it went
    dictionaries   what payloads and replies are packed with (compression.py)
    decisions      what became of each question (decision_table.py)
    notes          small facts about the server

A row stays ``sent`` only when the process died in between: such requests are asked again. Answers
are synced to the disk, so that they survive a power cut. One process at a time can open a journal.
Journals of version 1 are rewritten when they are opened (journal_upgrade.py).
"""

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.journal.answered import AnsweredRequests
from megatron_in2.synthesis.llm.journal.decision_table import DecisionTable
from megatron_in2.synthesis.llm.journal.file import (
    VERSION,
    add_request,
    load_packer,
    make_tables,
    number_of,
    open_exclusively,
)
from megatron_in2.synthesis.llm.journal.upgrade import upgrade_journal


@dataclass(frozen=True)
class JournalSummary:
    """What a journal holds; costs in US dollars.

    ``sent_unanswered`` died with a process; ``possible_cost`` is the most that they and the lost
    attempts may have cost beyond ``cost``. ``given_up`` are requests without any answer.
    """

    answers: int
    attempts: int
    refused: int
    lost: int
    sent_unanswered: int
    given_up: int
    cost: float
    possible_cost: float
    completion_tokens: int

    def line(self) -> str:
        """Return what was paid for, as commands print it."""
        return (
            f"{'paid calls':>14} {self.answers:>9,} answers, ${self.cost:.4f}; {self.lost} lost "
            f"and {self.sent_unanswered} unanswered attempts may have cost "
            f"${self.possible_cost:.4f} more"
        )


@dataclass(frozen=True)
class BatchRequest:
    """One request of a batch: its key, its attempt, its most possible cost, its name there."""

    key: bytes
    attempt: int
    worst_cost: float
    name: str


@dataclass(frozen=True)
class OpenBatch:
    """A batch that is not collected yet, with the server's names for its file and for itself."""

    token: str
    started: float
    file: str | None
    remote: str | None
    requests: tuple[BatchRequest, ...]


@dataclass(frozen=True)
class Refusal:
    """Why a request was given up: the HTTP status, None where there was none, and a message."""

    status: int | None
    message: str


class Journal:
    """A journal, open for this process alone; its methods may be called from any thread.

    Args:
        path: the sqlite file; made if absent.
        resembled: passages that many payloads repeat, such as the prompts: they save space.

    Raises:
        InputError: it is no journal, another run holds it ("database is locked"), or a full disk.
    """

    def __init__(self, path: Path, resembled: str = "") -> None:
        self.path = path
        self._in_transaction = False
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named_errors():
            upgrade_journal(path)
            self._database = open_exclusively(path)
            self._require_version()
            make_tables(self._database)
            self._packer = load_packer(self._database, resembled)
            self._answered = AnsweredRequests(self._database)
        self.decisions = DecisionTable(self._database, self.transaction)

    def close(self) -> None:
        self._database.close()

    def answer(self, key: bytes) -> dict[str, Any] | None:
        """Return the reply to a request, or None."""
        number = self._answered.number(key)
        if number is None:
            return None
        query = "SELECT reply, hash FROM answers JOIN requests ON id = request WHERE request = ?"
        row = self._database.execute(query, (number,)).fetchone()
        return None if row is None or row[1] != key else self._unpacked(row[0])

    def refusal(self, key: bytes) -> Refusal | None:
        """Return why a request was given up, or None."""
        row = self._database.execute(
            "SELECT status, message FROM refusals "
            "WHERE request = (SELECT id FROM requests WHERE hash = ?)",
            (key,),
        ).fetchone()
        return None if row is None else Refusal(*row)

    def payload(self, key: bytes) -> dict[str, Any]:
        """Return a request that the journal holds."""
        query = "SELECT payload FROM requests WHERE hash = ?"
        return self._unpacked(self._database.execute(query, (key,)).fetchone()[0])

    def attempts_of(self, key: bytes) -> int:
        """Return how often a request was tried."""
        query = (
            "SELECT COUNT(*) FROM attempts WHERE request = (SELECT id FROM requests WHERE hash = ?)"
        )
        return int(self._database.execute(query, (key,)).fetchone()[0])

    def noted(self, name: str) -> str | None:
        """Return a fact that was kept, or None."""
        row = self._database.execute("SELECT value FROM notes WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def open_batches(self) -> list[OpenBatch]:
        """Return the batches that a stopped run left behind, oldest first."""
        rows = self._database.execute(
            "SELECT id, token, started, file, remote FROM batches WHERE state = 'open' "
            "ORDER BY started, id"
        ).fetchall()
        query = (
            "SELECT r.hash, b.attempt, a.worst_cost, b.name FROM batch_requests b "
            "JOIN attempts a ON a.id = b.attempt JOIN requests r ON r.id = b.request "
            "WHERE b.batch = ? ORDER BY b.attempt"
        )
        return [
            OpenBatch(
                token,
                started,
                file,
                remote,
                tuple(BatchRequest(*row) for row in self._database.execute(query, (number,))),
            )
            for number, token, started, file, remote in rows
        ]

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
        answers, given_up = (
            self._database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]
            for table in ("answers", "refusals")
        )
        return JournalSummary(
            answers, attempts, refused, lost, sent, given_up, cost, possible, tokens
        )

    def entries(self) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
        """Yield every request's payload with its reply, or None, in the order of asking."""
        rows = self._database.execute(
            "SELECT payload, reply FROM requests LEFT JOIN answers ON request = id ORDER BY id"
        )
        for payload, reply in rows:
            yield self._unpacked(payload), None if reply is None else self._unpacked(reply)

    def begin(self, key: bytes, payload: dict[str, Any], worst_cost: float) -> int:
        """Write down that a request is about to be sent; return the attempt's number."""
        with self.transaction():
            cursor = self._database.execute(
                "INSERT INTO attempts (request, outcome, started, worst_cost) "
                "VALUES (?, 'sent', ?, ?)",
                (add_request(self._database, self._packer, key, payload), time.time(), worst_cost),
            )
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def finish(
        self, attempt: int, key: bytes, reply: bytes, cost: float, completion_tokens: int
    ) -> None:
        """Write down a request's reply, JSON as it came; the first one of a request is kept."""
        with self.transaction(synced=True):
            self._database.execute(
                "UPDATE attempts SET outcome = 'answered', ended = ?, cost = ?, "
                "completion_tokens = ? WHERE id = ?",
                (time.time(), cost, completion_tokens, attempt),
            )
            request = self._number(key)
            self._database.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?)", (request, self._packer.pack(reply))
            )
            self._database.execute("DELETE FROM refusals WHERE request = ?", (request,))
        self._answered.add(key, request)

    def fail(self, attempt: int, error: str, perhaps_billed: bool) -> None:
        """Write down that an attempt brought no reply."""
        with self.transaction():
            self._database.execute(
                "UPDATE attempts SET outcome = ?, ended = ?, error = ? WHERE id = ?",
                ("lost" if perhaps_billed else "refused", time.time(), error, attempt),
            )

    def refuse(self, key: bytes, refusal: Refusal) -> None:
        """Write down that a request is given up."""
        with self.transaction():
            self._database.execute(
                "INSERT OR REPLACE INTO refusals VALUES (?, ?, ?)",
                (self._number(key), refusal.status, refusal.message),
            )

    def forget_refusals(self, keys: Iterable[bytes]) -> None:
        """Take requests as not given up after all: the server failed, not they."""
        with self.transaction():
            for key in keys:
                self._database.execute(
                    "DELETE FROM refusals WHERE request = ?", (self._number(key),)
                )

    def note(self, name: str, value: str) -> None:
        """Keep a small fact, such as what the server cannot do."""
        with self.transaction():
            self._database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))

    def begin_batch(
        self, token: str, requests: Iterable[tuple[bytes, dict[str, Any], float]]
    ) -> OpenBatch:
        """Write down a batch of (key, payload, worst cost) before anything of it is sent."""
        with self.transaction():
            begun = [
                BatchRequest(key, self.begin(key, payload, worst_cost), worst_cost, key.hex())
                for key, payload, worst_cost in requests
            ]
            return self.regroup(token, begun)

    def regroup(
        self, token: str, requests: Iterable[BatchRequest], file: str | None = None
    ) -> OpenBatch:
        """Write down a batch of requests whose attempts are under way already."""
        batch = OpenBatch(token, time.time(), file, None, tuple(requests))
        with self.transaction():
            number = self._database.execute(
                "INSERT INTO batches (token, started, file, state) VALUES (?, ?, ?, 'open')",
                (token, batch.started, file),
            ).lastrowid
            self._database.executemany(
                "INSERT INTO batch_requests VALUES (?, ?, ?, ?)",
                [(number, self._number(r.key), r.attempt, r.name) for r in batch.requests],
            )
        return batch

    def update_batch(self, token: str, file: str | None, remote: str | None) -> None:
        """Write down the server's names for a batch."""
        with self.transaction():
            self._database.execute(
                "UPDATE batches SET file = ?, remote = ? WHERE token = ?", (file, remote, token)
            )

    def close_batch(self, token: str) -> None:
        """Write down that a batch is over; its requests were booked one by one."""
        with self.transaction():
            self._database.execute("UPDATE batches SET state = 'done' WHERE token = ?", (token,))

    @contextmanager
    def transaction(self, synced: bool = False) -> Iterator[None]:
        """Commit what the block writes at once, or nothing of it.

        Args:
            synced: sync to the disk; inside another block, that one's choice counts.
        """
        if self._in_transaction:
            yield
            return
        with self._named_errors():
            self._database.execute(f"PRAGMA synchronous={'FULL' if synced else 'NORMAL'}")
            self._in_transaction = True
            # Not ``with self._database``: Python 3.11 loses the error there if, on a full disk,
            # the way back fails like the commit.
            try:
                yield
                self._database.commit()
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.rollback()
                raise
            finally:
                self._in_transaction = False

    def _number(self, key: bytes) -> int:
        number = number_of(self._database, key)
        assert number is not None, "the journal holds no such request"
        return number

    def _unpacked(self, packed: bytes) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads(
                self._packer.unpack(packed).decode("utf-8", "surrogatepass")
            )
        except ValueError as error:
            raise InputError(f"journal {self.path} is damaged: {error}") from error
        return value

    def _require_version(self) -> None:
        version = int(self._database.execute("PRAGMA user_version").fetchone()[0])
        if version > VERSION:
            raise InputError(
                f"journal {self.path} has version {version}, this program writes {VERSION}: "
                "use the program that wrote it"
            )

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.DatabaseError as error:
            raise InputError(
                f"journal {self.path}: {error}; what was committed is intact: "
                "fix the cause and run again"
            ) from error
