"""Whole runs against a misbehaving server process: nothing lost, nothing paid for twice."""

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_in2.segment_store import SegmentStore
from tests.conftest import ROOT, assert_refused
from tests.synthesis.conftest import ServerProcess

CONCURRENCY = 24
pytestmark = pytest.mark.usefixtures("api_key")


def _config(folder: Path, corpus: Path, server: ServerProcess, **changes: Any) -> Path:
    config: dict[str, Any] = {
        "writer": "openai",
        "corpus": {"paths": [str(corpus)]},
        "segments": {"min_tokens": 48},
        "composition": {"min_tokens": 256, "max_tokens": 2000},
        "mixture": {"fine_grained": 100, "integration": 12, "short": 8},
        "openai": {
            "model": "gpt-4o-mini",
            "base_url": server.url,
            "concurrency": CONCURRENCY,
            "timeout_seconds": 1.0,
            "first_backoff_seconds": 0.02,
            "batch_poll_seconds": 0.05,
        },
    }
    for name, value in changes.items():
        config[name] = {**config[name], **value} if isinstance(value, dict) else value
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _command(config: Path, output: Path, *more: object) -> list[str]:
    tool = ROOT / "tools" / "synthesize_in2.py"
    arguments = ("--config", config, "--output", output, *more)
    return [sys.executable, str(tool), *map(str, arguments)]


def _run(config: Path, output: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        _command(config, output, *more), capture_output=True, text=True, timeout=900, check=False
    )


def _complete(config: Path, output: Path, *more: object) -> list[dict[str, Any]]:
    result = _run(config, output, *more)
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in output.read_text().splitlines()]


def _journal(output: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"{output}.journal.sqlite")) as database:
        return database.execute(query).fetchall()


def _check_samples(output: Path, server: ServerProcess, wanted: int) -> None:
    """Each sample has the answer to its own request, and the journal all that was billed."""
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(records) == wanted
    store = SegmentStore(output.with_name(f"{output.name}.segments"))
    duplicates = [record for record in records if record["question"] == "What is the same?"]
    assert len(duplicates) <= 1  # the server gives this reply to many requests
    for record in records:
        if record in duplicates:
            continue
        evidence = sorted(record["segments"][slot] for slot in record["evidence"])
        own = " ".join("\n".join(store.text(segment) for segment in evidence).split())
        told = record["question"].removeprefix("What is told of <").removesuffix("> here?")
        assert own.startswith(told)
    stats = server.stats()
    answered = _journal(output, "SELECT lower(hex(hash)) FROM answers JOIN requests ON id=request")
    assert {row[0] for row in answered} >= set(stats["keys"])
    twice = _journal(
        output,
        "SELECT request FROM attempts WHERE outcome = 'answered' GROUP BY request "
        "HAVING COUNT(*) > 1",
    )
    assert twice == []


def _kill_along_the_way(
    config: Path, output: Path, server: ServerProcess, kills: int, requests: int
) -> int:
    """Kill the run ``kills`` times, spread over ``requests``; return how often it really was."""
    killed = 0
    for number in range(1, kills + 1):
        run = subprocess.Popen(_command(config, output), stderr=subprocess.DEVNULL)
        try:
            threshold = number * requests // (kills + 1)
            while run.poll() is None and server.stats()["billed"] < threshold:
                time.sleep(0.02)
        finally:
            if run.poll() is None:
                run.send_signal(signal.SIGKILL)
                killed += 1
            run.wait()
        assert not output.exists()
    return killed


def _survives_kills(
    tmp_path: Path, corpus: Path, start: Any, mixture: dict[str, int], kills: int
) -> dict[str, Any]:
    wanted = sum(mixture.values())
    calm = start(delay=0.0)
    straight = tmp_path / "straight" / "x.jsonl"
    straight.parent.mkdir()
    _complete(_config(straight.parent, corpus, calm, mixture=mixture), straight)

    rough = start(fault_rate=0.3, delay=0.02)
    config = _config(tmp_path, corpus, rough, mixture=mixture)
    output = tmp_path / "x.jsonl"
    assert _kill_along_the_way(config, output, rough, kills, wanted) == kills
    _complete(config, output)
    _check_samples(output, rough, wanted)
    assert output.read_bytes() == straight.read_bytes()
    for suffix in ("report.json", "rejects.jsonl"):
        assert output.with_name(f"x.jsonl.{suffix}").exists()
    stats = rough.stats()
    outcomes = dict(_journal(output, "SELECT outcome, COUNT(*) FROM attempts GROUP BY outcome"))
    unanswered, lost = outcomes.get("sent", 0), outcomes.get("lost", 0)
    excess = stats["billed"] - stats["distinct"]
    assert unanswered <= kills * CONCURRENCY
    assert excess <= unanswered + lost  # a busy machine's reply may come after the timeout
    assert stats["most_in_flight"] <= 2 * CONCURRENCY  # those of a killed run may still be there
    assert len(stats["faults"]) >= 11  # every way to misbehave was met
    return {**stats, "unanswered": unanswered, "excess": excess}


@pytest.mark.slow
def test_a_run_survives_faults_and_kills(tmp_path: Path, small_corpus: Path, start_server) -> None:
    mixture = {"fine_grained": 200, "integration": 30, "short": 10}
    _survives_kills(tmp_path, small_corpus, start_server, mixture, kills=2)


@pytest.mark.slow
def test_two_thousand_requests_survive_ten_kills(
    tmp_path: Path, corpus_file: Path, start_server
) -> None:
    mixture = {"fine_grained": 1800, "integration": 150, "short": 50}
    figures = _survives_kills(tmp_path, corpus_file, start_server, mixture, kills=10)
    assert figures["distinct"] >= 2000
    print({name: figures[name] for name in ("billed", "distinct", "unanswered", "excess", "tries")})
    print(figures["faults"])


def test_a_run_that_is_asked_to_stop_keeps_every_reply(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    """SIGTERM and Ctrl-C: what is under way is awaited, and what was paid for is in the journal."""
    server, output = start_server(), tmp_path / "x.jsonl"
    config = _config(tmp_path, small_corpus, server, openai={"timeout_seconds": 300.0})
    for number, code in ((signal.SIGTERM, 75), (signal.SIGINT, 130)):
        server.change(hold=True)  # replies wait until the signal has been seen
        already = len(server.stats()["times"])
        run = subprocess.Popen(_command(config, output), stderr=subprocess.PIPE, text=True)
        while len(server.stats()["times"]) < already + CONCURRENCY:
            assert run.poll() is None
            time.sleep(0.02)
        run.send_signal(number)
        assert run.stderr is not None
        assert any("questions under way" in line for line in run.stderr)
        server.change(hold=False)
        _, said = run.communicate(timeout=300)
        assert run.returncode == code, said
        assert f"stopped by {number.name}: run again to go on" in said
        assert "Traceback" not in said
        answers = _journal(output, "SELECT COUNT(*) FROM answers")[0][0]
        # "refused": begun in the journal when the signal came, and then not sent.
        outcomes = {row[0] for row in _journal(output, "SELECT DISTINCT outcome FROM attempts")}
        assert outcomes <= {"answered", "refused"}
        assert answers == server.stats()["billed"] == already + CONCURRENCY
        assert output.with_name("x.jsonl.rejects.jsonl").exists()
        assert not output.exists()
    _complete(config, output)
    stats = server.stats()
    assert stats["billed"] == stats["distinct"] == len(stats["times"])


@pytest.mark.slow
def test_batches_survive_kills_between_their_steps(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    mixture = {"fine_grained": 60, "integration": 10, "short": 5}
    calm = start_server()
    straight = tmp_path / "straight" / "x.jsonl"
    straight.parent.mkdir()
    _complete(_config(straight.parent, small_corpus, calm, mixture=mixture), straight)

    server = start_server(fault_rate=0.2, slow_batches=0.4)
    changes = {"writer": "openai-batch", "mixture": mixture, "openai": {"batch_requests": 50}}
    config = _config(tmp_path, small_corpus, server, **changes)
    output = tmp_path / "x.jsonl"
    for step in (
        lambda stats: stats["files"] >= 1,  # uploaded, but the client does not know the file yet
        lambda stats: stats["batches"] >= 1,  # created, but the client does not know the batch
        lambda stats: stats["billed"] >= 1,  # ended, not collected
        lambda stats: stats["batches"] >= 2,
    ):
        run = subprocess.Popen(_command(config, output), stderr=subprocess.DEVNULL)
        while run.poll() is None and not step(server.stats()):
            time.sleep(0.01)
        assert run.poll() is None, "the run ended before it could be killed"
        run.kill()
        run.wait()
    _complete(config, output)
    _check_samples(output, server, 75)
    assert output.read_bytes() == straight.read_bytes()
    stats = server.stats()
    assert stats["billed"] == stats["distinct"]  # no batch was handed in twice
    assert stats["tries"] > stats["billed"]  # failed requests went into other batches
    cost = json.loads(output.with_name("x.jsonl.report.json").read_text())["calls"]["cost"]
    half = (300 * 0.15 + 50 * 0.60) / 1e6 / 2  # the Batch API's price
    assert cost == pytest.approx(half * stats["billed"])


def test_paid_checks_are_asked_and_counted(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    server = start_server()
    filters = {"filters": {"closed_book": True, "verify": True}, "writer": "openai"}
    config = _config(tmp_path, small_corpus, server)
    settings = yaml.safe_load(config.read_text()) | filters
    config.write_text(yaml.safe_dump(settings))
    _complete(config, tmp_path / "x.jsonl")
    rejects = [json.loads(line) for line in (tmp_path / "x.jsonl.rejects.jsonl").open()]
    reasons = {line["reason"].split(": ")[1] for line in rejects}
    assert reasons >= {
        "answerable without the evidence",
        "evidence does not support the answer",
        "speaks of the context",
        "malformed reply",
        "the model refused",
    }
    assert all(line["question"] for line in rejects if "support" in line["reason"])


def test_a_dry_run_calls_nobody(tmp_path: Path, small_corpus: Path, start_server) -> None:
    server = start_server()
    config = _config(tmp_path, small_corpus, server)
    result = _run(config, tmp_path / "x.jsonl", "--dry-run")
    assert result.returncode == 0, result.stderr
    assert "120 requests" in result.stdout
    assert "by prices of" in result.stdout
    assert server.stats()["tries"] == 0
    _complete(config, tmp_path / "x.jsonl")
    again = _run(config, tmp_path / "x.jsonl", "--dry-run", "--overwrite")
    assert "answers are in the journal already" in again.stdout
    tries = server.stats()["tries"]
    _complete(config, tmp_path / "x.jsonl", "--overwrite")  # paid answers are used again
    assert server.stats()["tries"] == tries


def test_bad_input_ends_in_one_line(
    tmp_path: Path, small_corpus: Path, start_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, output = start_server(), tmp_path / "x.jsonl"
    unknown = _config(tmp_path, small_corpus, server, openai={"model": "gpt-17", "base_url": None})
    assert_refused(_run(unknown, output), "openai.model='gpt-17'", "openai.prices")
    config = _config(tmp_path, small_corpus, server)
    assert_refused(_run(config, output, "--max-cost", 0.0001), "--max-cost 0.0001")
    assert not output.exists()
    assert_refused(_run(config, output, "--shard", 4, "--num-shards", 4), "shard < num-shards")
    monkeypatch.delenv("OPENAI_API_KEY")
    keyless = _config(tmp_path, small_corpus, server, openai={"base_url": None})
    assert_refused(_run(keyless, output), "OPENAI_API_KEY")


def test_a_full_disk_leaves_the_journal_intact(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    server, output = start_server(), tmp_path / "x.jsonl"
    config = _config(tmp_path, small_corpus, server)
    _run(config, output, "--dry-run")  # makes the store
    # No file may grow beyond 512 KB, as if the disk were full when the journal reaches it.
    limited = ["bash", "-c", 'ulimit -f 512; exec "$@"', "-", *_command(config, output)]
    result = subprocess.run(limited, capture_output=True, text=True, timeout=300, check=False)
    assert_refused(result, "x.jsonl")
    assert not output.exists()
    assert len(_journal(output, "SELECT request FROM answers")) > 10
    assert _journal(output, "PRAGMA integrity_check") == [("ok",)]
    _complete(config, output)
    stats = server.stats()
    # What was in flight when the disk was full is all that may be asked again.
    assert stats["billed"] - stats["distinct"] <= CONCURRENCY
