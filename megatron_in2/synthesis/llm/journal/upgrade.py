"""Rewrites a journal of version 1, whose answers were paid for, in the present form.

Version 1 named a request by a hash of its whole payload, the reply's form included, kept payloads
and replies as plain text, and kept a refusal as if it were an answer.
"""

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from megatron_in2.progress import progress_bar
from megatron_in2.synthesis.llm.envelopes import is_about_form
from megatron_in2.synthesis.llm.journal.compression import Packer
from megatron_in2.synthesis.llm.journal.file import (
    add_request,
    load_packer,
    make_tables,
    open_exclusively,
    request_key,
)

FROM_VERSION_1 = "written by version 1"  # a note in the journal
_ATTEMPT = "outcome, error, started, ended, worst_cost, cost, completion_tokens"


def upgrade_journal(path: Path) -> None:
    """Bring a journal of version 1 into the present form; the file is replaced at once.

    Raises:
        sqlite3.DatabaseError: it is no database, is locked, or the disk is full.
    """
    if not path.exists() or not path.stat().st_size:
        return
    with closing(open_exclusively(path)) as old:
        columns = {row[1] for row in old.execute("PRAGMA table_info(attempts)")}
        if "hash" not in columns:
            return
        temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
        temporary.unlink(missing_ok=True)
        try:
            with closing(open_exclusively(temporary)) as new:
                make_tables(new)
                with new:
                    _copy(old, new)
                new.execute("PRAGMA journal_mode=DELETE")  # all in one file, synced
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        old.execute("PRAGMA journal_mode=DELETE")  # takes its -wal file away
    os.replace(temporary, path)


def _copy(old: sqlite3.Connection, new: sqlite3.Connection) -> None:
    typical = old.execute("SELECT payload FROM requests LIMIT 4").fetchall()
    packer = load_packer(new, "".join(payload for (payload,) in typical))
    numbers: dict[str, int] = {}  # of requests, by their old names
    total = old.execute("SELECT COUNT(*) FROM requests").fetchone()[0]
    rows = old.execute(
        "SELECT r.hash, r.payload, a.reply FROM requests r LEFT JOIN answers a ON a.hash = r.hash"
    )
    for name, text, reply in progress_bar(rows, total=total, desc="journal", unit=" requests"):
        payload = json.loads(text)
        numbers[name] = add_request(new, packer, request_key(payload), payload)
        if reply is not None:
            _copy_answer(new, packer, numbers[name], reply)
    # A prompt was asked twice where the server took no schema: the answer counts.
    new.execute("DELETE FROM refusals WHERE request IN (SELECT request FROM answers)")
    _copy_attempts(old, new, numbers)
    _copy_open_batches(old, new, numbers)
    new.executemany("INSERT INTO notes VALUES (?, ?)", old.execute("SELECT name, value FROM notes"))
    new.execute("INSERT OR REPLACE INTO notes VALUES (?, 'yes')", (FROM_VERSION_1,))


def _copy_answer(new: sqlite3.Connection, packer: Packer, number: int, reply: str) -> None:
    envelope = json.loads(reply)
    if "refused" not in envelope:
        packed = packer.pack(reply.encode("utf-8", "surrogatepass"))
        new.execute("INSERT OR IGNORE INTO answers VALUES (?, ?)", (number, packed))
    elif not is_about_form(envelope["refused"]):
        new.execute(
            "INSERT OR IGNORE INTO refusals VALUES (?, ?, ?)",
            (number, envelope["status"], envelope["refused"]),
        )


def _copy_attempts(
    old: sqlite3.Connection, new: sqlite3.Connection, numbers: dict[str, int]
) -> None:
    rows = old.execute(f"SELECT id, hash, {_ATTEMPT} FROM attempts ORDER BY id")
    new.executemany(
        f"INSERT INTO attempts (id, request, {_ATTEMPT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        ((number, numbers[name], *rest) for number, name, *rest in rows),
    )


def _copy_open_batches(
    old: sqlite3.Connection, new: sqlite3.Connection, numbers: dict[str, int]
) -> None:
    """Copy batches that are not collected; their requests keep the names they have there."""
    batches = old.execute(
        "SELECT token, started, file, remote FROM batches WHERE state = 'open'"
    ).fetchall()
    for batch in batches:
        number = new.execute(
            "INSERT INTO batches (token, started, file, remote, state) VALUES (?, ?, ?, ?, 'open')",
            batch,
        ).lastrowid
        rows = old.execute("SELECT hash, attempt FROM batch_requests WHERE batch = ?", batch[:1])
        new.executemany(
            "INSERT OR IGNORE INTO batch_requests VALUES (?, ?, ?, ?)",
            [(number, numbers[name], attempt, name) for name, attempt in rows],
        )
