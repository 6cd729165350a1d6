"""The journal: what was written is kept, whatever happens to the process."""

import asyncio
import contextlib
import json
import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.journal.file import request_key
from megatron_in2.synthesis.llm.journal.group_commit import GroupCommit
from megatron_in2.synthesis.llm.journal.journal import Journal, Refusal
from megatron_in2.synthesis.llm.prompts import fill, load_prompts

PAYLOAD = {"model": "m", "messages": [{"role": "user", "content": "ü"}]}
KEY = request_key(PAYLOAD)
REPLY = {"choices": []}
BODY = json.dumps(REPLY).encode()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "x.sqlite")


def test_a_key_names_what_is_asked_and_not_in_which_form() -> None:
    assert request_key({"a": 1, "b": 2}) == request_key({"b": 2, "a": 1})
    assert request_key({"a": 1}) != request_key({"a": 2})
    assert request_key({"a": 1, "response_format": {"type": "x"}}) == request_key({"a": 1})
    assert request_key({"max_tokens": 5}) == request_key({"max_completion_tokens": 5})
    assert request_key({"max_tokens": 5}) != request_key({"max_tokens": 6})


def test_answers_stand_after_reopening(journal: Journal) -> None:
    assert journal.answer(KEY) is None
    attempt = journal.begin(KEY, PAYLOAD, worst_cost=2.0)
    journal.finish(attempt, KEY, BODY, cost=0.5, completion_tokens=7)
    journal.close()
    again = Journal(journal.path)
    assert again.answer(KEY) == REPLY
    assert again.payload(KEY) == PAYLOAD
    summary = again.summary()
    assert (summary.answers, summary.attempts, summary.cost) == (1, 1, 0.5)
    assert (summary.possible_cost, summary.completion_tokens) == (0.0, 7)


def test_the_first_reply_is_never_replaced(journal: Journal) -> None:
    for body in (BODY, b'{"choices": ["another"]}'):
        journal.finish(journal.begin(KEY, PAYLOAD, 1.0), KEY, body, 0.1, 1)
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
        "from megatron_in2.synthesis.llm.journal.journal import Journal\n"
        f"journal = Journal(pathlib.Path({str(path)!r}))\n"
        "attempt = journal.begin(b'a', {}, 1.0)\n"
        "journal.finish(attempt, b'a', b'{}', 1.0, 1)\n"
        "journal.begin(b'b', {}, 1.0)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == -9
    journal = Journal(path)
    assert journal.answer(b"a") == {}
    assert journal.answer(b"b") is None
    assert journal.summary().sent_unanswered == 1


def test_a_second_run_is_kept_away(journal: Journal) -> None:
    with pytest.raises(InputError, match="locked"):
        Journal(journal.path)


def test_what_is_no_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.sqlite").write_text("no database at all, but long enough to be looked at" * 30)
    with pytest.raises(InputError, match=r"x\.sqlite: file is not a database"):
        Journal(tmp_path / "x.sqlite")


def test_a_full_disk_leaves_the_journal_intact(journal: Journal) -> None:
    journal.finish(journal.begin(KEY, PAYLOAD, 1.0), KEY, BODY, 0.1, 1)
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(InputError, match="full; what was committed is intact"):
        for number in range(1000):
            noise = random.Random(number).randbytes(500).hex()
            journal.begin(f"{number}".encode(), {"text": noise}, 1.0)
    journal.close()
    assert Journal(journal.path).answer(KEY) == REPLY


def test_a_batch_is_written_down_at_once_and_may_be_split(journal: Journal) -> None:
    requests = [(bytes([name]), {"name": name}, 1.0) for name in range(4)]
    batch = journal.begin_batch("token", requests)
    journal.update_batch("token", "file-1", "batch-1")
    (found,) = journal.open_batches()
    assert (found.token, found.file, found.remote) == ("token", "file-1", "batch-1")
    assert found.requests == batch.requests
    assert [request.name for request in batch.requests] == ["00", "01", "02", "03"]
    with journal.transaction():
        journal.close_batch("token")
        for half in (batch.requests[:2], batch.requests[2:]):
            journal.regroup(f"token-{half[0].name}", half, "file-1")
    parts = journal.open_batches()
    assert [part.requests for part in parts] == [batch.requests[:2], batch.requests[2:]]
    assert [(part.file, part.remote) for part in parts] == [("file-1", None)] * 2
    assert journal.summary().attempts == 4  # splitting used none up


def test_a_transaction_is_written_wholly_or_not_at_all(journal: Journal) -> None:
    with pytest.raises(ZeroDivisionError), journal.transaction(synced=True):
        journal.finish(journal.begin(KEY, PAYLOAD, 1.0), KEY, BODY, 0.1, 1)
        raise ZeroDivisionError
    assert journal.summary().attempts == 0
    assert Journal.answer(journal, KEY) is None


def test_what_is_given_up_is_kept_until_it_is_answered(journal: Journal) -> None:
    journal.fail(journal.begin(KEY, PAYLOAD, 1.0), "HTTP 400", perhaps_billed=False)
    assert journal.refusal(KEY) is None
    journal.refuse(KEY, Refusal(400, "too long"))
    assert journal.refusal(KEY) == Refusal(400, "too long")
    assert journal.summary().given_up == 1
    journal.forget_refusals([KEY])
    assert journal.refusal(KEY) is None
    journal.refuse(KEY, Refusal(None, "timeout"))
    journal.finish(journal.begin(KEY, PAYLOAD, 1.0), KEY, BODY, 0.1, 1)
    assert journal.refusal(KEY) is None
    assert journal.answer(KEY) == REPLY


def test_texts_that_no_encoding_has_are_kept(journal: Journal) -> None:
    payload = {"messages": [{"content": "half \ud83d"}]}
    body = json.dumps({"choices": ["\ud83d"]}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    key = request_key(payload)
    journal.finish(journal.begin(key, payload, 1.0), key, body, 0.1, 1)
    assert journal.payload(key) == payload
    assert journal.answer(key) == {"choices": ["\ud83d"]}


def test_later_prompts_read_what_earlier_ones_packed(tmp_path: Path) -> None:
    for number in range(5):
        journal = Journal(tmp_path / "x.sqlite", f"prompt number {number}")
        if number == 2:  # more dictionaries than one byte can count
            rows = [(each, b"%d" % each) for each in range(3, 256)]
            journal._database.executemany("INSERT INTO dictionaries VALUES (?, ?)", rows)
            journal._database.commit()
        payload = {"number": number, "text": f"prompt number {number}"}
        key = request_key(payload)
        journal.finish(journal.begin(key, payload, 1.0), key, BODY, 0.1, 1)
        journal.close()
    journal = Journal(tmp_path / "x.sqlite")
    entries = list(journal.entries())
    assert [payload["number"] for payload, _ in entries] == list(range(5))
    assert all(reply == REPLY for _, reply in entries)


def test_a_journal_is_small(tmp_path: Path, texts: list[str]) -> None:
    """2,000 questions over real prose, with the strict prompt and OpenAI's usual envelope."""
    prompts = load_prompts("strict")
    journal = Journal(tmp_path / "x.sqlite", prompts.joined())
    chance = random.Random(5)
    with journal.transaction():
        for number in range(2000):
            words = chance.choice(texts).split()
            start = chance.randrange(max(len(words) - 100, 1))
            passage = " ".join(words[start : start + 100])
            prompt = fill(prompts.fine_grained, context=f"{number} {passage}")
            payload = {"model": "m", "messages": [{"role": "user", "content": prompt}]}
            message = {"role": "assistant", "content": " ".join(words[:60])}
            body = {
                "id": chance.randbytes(16).hex(),
                "object": "chat.completion",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 300, "completion_tokens": 50, "total_tokens": 350},
            }
            key = request_key(payload)
            attempt = journal.begin(key, payload, 0.01)
            journal.finish(attempt, key, json.dumps(body).encode(), 0.005, 50)
    journal.close()
    assert (tmp_path / "x.sqlite").stat().st_size <= 2000 * 1500


def test_writes_of_many_are_committed_together(journal: Journal) -> None:
    async def work() -> list[int]:
        commits = GroupCommit(journal)
        keys = [bytes([number]) for number in range(50)]
        attempts = await asyncio.gather(
            *(commits.write(lambda key=key: journal.begin(key, {}, 1.0)) for key in keys)
        )
        assert journal.summary().attempts == 50
        with pytest.raises(InputError, match="no such table"):
            await commits.write(lambda: journal._database.execute("SELECT * FROM absent"))
        await commits.close()
        return attempts

    assert asyncio.run(work()) == list(range(1, 51))


def test_a_newer_version_is_refused(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "x.sqlite")) as database:
        database.execute("PRAGMA user_version = 9")
        database.execute("CREATE TABLE notes (x)")
    with pytest.raises(InputError, match="has version 9, this program writes 2"):
        Journal(tmp_path / "x.sqlite")


def test_the_file_is_plain_sqlite(journal: Journal) -> None:
    journal.begin(KEY, PAYLOAD, 1.0)
    journal.close()
    with contextlib.closing(sqlite3.connect(journal.path)) as database:
        assert database.execute("SELECT outcome FROM attempts").fetchall() == [("sent",)]
