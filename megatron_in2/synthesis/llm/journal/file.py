"""The journal's file: its tables, its keys, how it is opened, and what is in its rows."""

import hashlib
import json
import sqlite3
from pathlib import Path
from typing import Any

from megatron_in2.synthesis.llm.journal.compression import MAX_DICTIONARY_BYTES, Packer

VERSION = 2
KEY_BYTES = 16

_ENCODER = json.JSONEncoder(sort_keys=True)
_SAME = {"max_completion_tokens": "max_tokens"}

SCHEMA = """
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, hash BLOB NOT NULL UNIQUE, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, request INTEGER NOT NULL, outcome TEXT NOT NULL, error TEXT,
    started REAL NOT NULL, ended REAL, worst_cost REAL NOT NULL, cost REAL NOT NULL DEFAULT 0,
    completion_tokens INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS attempts_of_request ON attempts (request);
CREATE TABLE IF NOT EXISTS answers (request INTEGER PRIMARY KEY, reply BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS refusals (
    request INTEGER PRIMARY KEY, status INTEGER, message TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, started REAL NOT NULL, file TEXT,
    remote TEXT, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS batch_requests (
    batch INTEGER NOT NULL, request INTEGER NOT NULL, attempt INTEGER NOT NULL,
    name TEXT NOT NULL, PRIMARY KEY (batch, request)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS dictionaries (id INTEGER PRIMARY KEY, text BLOB NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS decisions (
    kind TEXT NOT NULL, place INTEGER NOT NULL, outcome BLOB NOT NULL,
    PRIMARY KEY (kind, place)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


def request_key(payload: dict[str, Any]) -> bytes:
    """Return the key that names a request: the same payload, the same key.

    The form that the reply is asked for (``response_format``) is no part of it: a reply that was
    paid for is good whether a schema or the prompt alone gave it its form. Nor is it by which of
    its two names the longest reply is limited.
    """
    named = {_SAME.get(name, name): payload[name] for name in payload if name != "response_format"}
    return hashlib.sha256(_ENCODER.encode(named).encode()).digest()[:KEY_BYTES]


def open_exclusively(path: Path) -> sqlite3.Connection:
    """Open a database that no other process can open meanwhile, for use in any thread."""
    database = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
    # Exclusive: no second run, and no shared memory, which network disks lack.
    database.execute("PRAGMA locking_mode=EXCLUSIVE")
    database.execute("PRAGMA journal_mode=WAL")
    return database


def make_tables(database: sqlite3.Connection) -> None:
    """Make the tables that are absent."""
    database.executescript(SCHEMA)
    database.execute(f"PRAGMA user_version = {VERSION}")


def load_packer(database: sqlite3.Connection, resembled: str) -> Packer:
    """Return what packs rows; it knows the dictionaries of all earlier runs.

    Args:
        database: the journal.
        resembled: passages that many payloads repeat: the dictionary to pack with.
    """
    wanted = resembled.encode("utf-8", "surrogatepass")[:MAX_DICTIONARY_BYTES]
    known = dict(database.execute("SELECT id, text FROM dictionaries").fetchall())
    current = next((number for number, text in known.items() if text == wanted), None)
    if current is None:
        current = min(len(known), 255)  # the number is one byte: the last one serves all others
        known.setdefault(current, wanted)
        with database:
            database.execute("INSERT OR IGNORE INTO dictionaries VALUES (?, ?)", (current, wanted))
    return Packer(known, current)


def number_of(database: sqlite3.Connection, key: bytes) -> int | None:
    """Return a request's number in the other tables; None where it is unknown."""
    row = database.execute("SELECT id FROM requests WHERE hash = ?", (key,)).fetchone()
    return None if row is None else int(row[0])


def add_request(
    database: sqlite3.Connection, packer: Packer, key: bytes, payload: dict[str, Any]
) -> int:
    """Return a request's number, a new one where it is unknown."""
    number = number_of(database, key)
    if number is None:
        text = json.dumps(payload, ensure_ascii=False).encode("utf-8", "surrogatepass")
        number = database.execute(
            "INSERT INTO requests (hash, payload) VALUES (?, ?)", (key, packer.pack(text))
        ).lastrowid
        assert number is not None
    return number
