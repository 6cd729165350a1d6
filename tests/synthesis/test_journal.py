"""The journal: what was written stands, whatever happens to the process."""

import contextlib
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.journal import Journal, payload_hash

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "ü"}]}
KEY = payload_hash(PAYLOAD)
REPLY = {"choices": []}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "x.sqlite")


def test_the_hash_ignores_the_order_of_fields() -> None:
    assert payload_hash({"a": 1, "b": 2}) == payload_hash({"b": 2, "a": 1})
    assert payload_hash({"a": 1}) != payload_hash({"a": 2})


def test_answers_stand_after_reopening(journal: Journal) -> None:
    assert journal.answer(KEY) is None
    attempt = journal.begin(KEY, PAYLOAD, worst_cost=2.0)
    journal.finish(attempt, KEY, REPLY, cost=0.5, completion_tokens=7)
    journal.close()
    again = Journal(journal.path)
    assert again.answer(KEY) == REPLY
    assert again.payload(KEY) == PAYLOAD
    summary = again.summary()
    assert (summary.answers, summary.attempts, summary.cost) == (1, 1, 0.5)
    assert (summary.possible_cost, summary.completion_tokens) == (0.0, 7)


def test_the_first_reply_is_never_replaced(journal: Journal) -> None:
    for reply in (REPLY, {"choices": ["another"]}):
        journal.finish(journal.begin(KEY, PAYLOAD, 1.0), KEY, reply, 0.1, 1)
    assert journal.answer(KEY) == REPLY
    assert journal.summary().cost == pytest.approx(0.2)  # but both were paid for


def test_every_outcome_is_counted(journal: Journal) -> None:
    journal.fail(journal.begin(KEY, PAYLOAD, 1.0), "429", perhaps_billed=False)
    journal.fail(journal.begin(KEY, PAYLOAD, 2.0), "timeout", perhaps_billed=True)
    journal.begin(KEY, PAYLOAD, 4.0)
    summary = journal.summary()
    assert (summary.refused, summary.lost, summary.sent_unanswered) == (1, 1, 1)
    assert summary.possible_cost == 6.0
    assert summary.cost == 0.0
    assert journal.attempts_of(KEY) == 3


def test_a_process_that_dies_leaves_its_attempt_as_sent(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    script = (
        "import os, pathlib\n"
        "from megatron_in2.synthesis.llm.journal import Journal\n"
        f"journal = Journal(pathlib.Path({str(path)!r}))\n"
        "attempt = journal.begin('a', {}, 1.0)\n"
        "journal.finish(attempt, 'a', {}, 1.0, 1)\n"
        "journal.begin('b', {}, 1.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    journal = Journal(path)
    assert journal.answer("a") == {}
    assert journal.answer("b") is None
    assert journal.summary().sent_unanswered == 1


def test_a_second_run_is_kept_away(journal: Journal) -> None:
    with pytest.raises(InputError, match="locked"):
        Journal(journal.path)


def test_what_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("no database at all, but long enough to be looked at" * 30)
    with pytest.raises(InputError, match=r"x\.sqlite: file is not a database"):
        Journal(tmp_path / "x.sqlite")


def test_a_full_disk_leaves_the_journal_intact(journal: Journal) -> None:
    journal.finish(journal.begin(KEY, PAYLOAD, 1.0), KEY, REPLY, 0.1, 1)
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match="full; what was committed is intact"):
        for number in range(1000):
            journal.begin(f"{number}", {"text": "x" * 1000}, 1.0)
    journal.close()
    assert Journal(journal.path).answer(KEY) == REPLY


def test_a_batch_is_collected_wholly_or_not_at_all(journal: Journal) -> None:
    requests = [(name, {"name": name}, 1.0) for name in ("a", "b")]
    batch = journal.begin_batch("token", requests)
    journal.update_batch("token", "file-1", "batch-1")
    (found,) = journal.open_batches()
    assert (found.token, found.file, found.remote) == ("token", "file-1", "batch-1")
    assert (found.attempts, found.worst_costs) == (batch.attempts, {"a": 1.0, "b": 1.0})
    with pytest.raises(KeyError):
        journal.finish_batch(found, {"a": (REPLY, 0.1, 1), "stranger": (REPLY, 0.1, 1)}, {})
    assert journal.answer("a") is None
    assert journal.open_batches() == [found]
    journal.finish_batch(found, {"a": (REPLY, 0.1, 1)}, {"b": "expired"})
    assert journal.answer("a") == REPLY
    assert journal.open_batches() == []
    assert journal.summary().refused == 1


def test_the_file_is_plain_sqlite(journal: Journal) -> None:
    journal.begin(KEY, PAYLOAD, 1.0)
    journal.close()
    with contextlib.closing(sqlite3.connect(journal.path)) as database:
        assert database.execute("SELECT outcome FROM attempts").fetchall() == [("sent",)]
