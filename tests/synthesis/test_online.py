"""One request at a time against the server process: limits, waits, fallbacks, refusals."""

import asyncio
import contextlib
import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.writer import LanguageModelWriter, build_language_model_writer
from megatron_in2.synthesis.writer import Draft, Evidence
from megatron_in2.tokenizers.base import Tokenizer
from tests.synthesis.conftest import ServerProcess

pytestmark = pytest.mark.usefixtures("api_key")
WORDS = ["river", "bridge", "winter", "letter", "garden", "engine", "mirror", "island"]


def _evidence(number: int) -> Evidence:
    text = " ".join(f"{word}{number}" for word in WORDS * 2)
    return Evidence(f"fine_grained/{number}", "fine_grained", (number,), (text,))


def _config(server: ServerProcess, **changes: Any) -> OpenAIConfig:
    config = OpenAIConfig(
        model="gpt-4o-mini",
        base_url=server.url,
        timeout_seconds=1.0,
        first_backoff_seconds=0.02,
        concurrency=16,
    )
    return replace(config, **changes)


def _write(
    config: OpenAIConfig,
    tokenizer: Tokenizer,
    journal: Path,
    numbers: range,
    max_cost: float | None = None,
) -> list[Draft]:
    """Write questions as a run does: what is under way is finished before an error is raised."""

    async def work(writer: LanguageModelWriter) -> list[Draft | BaseException]:
        try:
            return await asyncio.gather(
                *(writer.write(_evidence(number)) for number in numbers), return_exceptions=True
            )
        finally:
            writer.stop()
            await writer.close()

    writer = build_language_model_writer(config, False, tokenizer, journal, max_cost)
    results = asyncio.run(work(writer))
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def _rows(journal: Path, query: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(journal)) as database:
        return database.execute(query).fetchall()


def test_a_reply_sent_twice_never_answers_another_request(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server = start_server(fault_rate=1.0, faults=["sent twice"])
    config = _config(server, concurrency=4)
    drafts = _write(config, tokenizer, tmp_path / "x.sqlite", range(150))
    told = {number: draft.question for number, draft in enumerate(drafts) if "<" in draft.question}
    assert len(told) > 120
    assert all(f"<river{number} bridge{number} " in told[number] for number in told)


def test_retry_after_is_obeyed(tmp_path: Path, start_server, tokenizer: Tokenizer) -> None:
    server = start_server(fault_rate=0.3, faults=["429 with Retry-After"])
    config = _config(server, concurrency=1)
    _write(config, tokenizer, tmp_path / "x.sqlite", range(5))
    stats = server.stats()
    assert stats["faults"]["429 with Retry-After"] >= 1
    assert stats["early"] == 0


def test_rate_limits_spread_requests(tmp_path: Path, start_server, tokenizer: Tokenizer) -> None:
    server = start_server()
    by_requests = _config(server, requests_per_minute=600)
    _write(by_requests, tokenizer, tmp_path / "x.sqlite", range(25))
    times = server.stats()["times"]
    # 600 a minute: a burst of 10 at most, then one each tenth of a second.
    assert times[-1] - times[0] >= 1.0
    by_tokens = _config(server, tokens_per_minute=60_000, max_answer_tokens=100)
    _write(by_tokens, tokenizer, tmp_path / "y.sqlite", range(100, 108))
    times = server.stats()["times"][25:]
    # Each request reserves more than 300 tokens, and 1,000 a second may pass.
    assert times[-1] - times[0] >= 1.0


def test_a_server_without_schemas_is_asked_in_plain_text(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server = start_server(no_schema=True)
    journal = tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, range(40))
    assert sum(draft.problem is None for draft in drafts) > 30
    tries = server.stats()["tries"]
    assert _write(_config(server), tokenizer, journal, range(40)) == drafts
    assert server.stats()["tries"] == tries
    _write(_config(server), tokenizer, journal, range(40, 44))
    payloads = [json.loads(row[0]) for row in _rows(journal, "SELECT payload FROM requests")]
    assert sum("response_format" in payload for payload in payloads) <= 40


def test_equal_requests_are_paid_for_once(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server = start_server(delay=0.1)

    async def work(writer: LanguageModelWriter) -> list[Draft]:
        drafts = await asyncio.gather(*(writer.write(_evidence(1)) for _ in range(10)))
        await writer.close()
        return drafts

    writer = build_language_model_writer(
        _config(server), False, tokenizer, tmp_path / "x.sqlite", None
    )
    drafts = asyncio.run(work(writer))
    assert len(set(drafts)) == 1
    assert server.stats()["billed"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"always": 404}, "HTTP 404"),
        ({"always": 403}, "HTTP 403"),
        ({"always": 429, "code": "insufficient_quota"}, "its quota"),
        ({"always": 503}, "failed 3 times, lastly: .*503.*run again to go on"),
        ({"always": 422}, "refused 50 requests in a row"),
    ],
)
def test_hopeless_servers_end_the_run(
    tmp_path: Path, start_server, tokenizer: Tokenizer, options: dict, message: str
) -> None:
    config = _config(start_server(**options), max_attempts=3)
    with pytest.raises(InputError, match=message):
        _write(config, tokenizer, tmp_path / "x.sqlite", range(60))
    outcomes = {row[0] for row in _rows(tmp_path / "x.sqlite", "SELECT outcome FROM attempts")}
    assert "sent" not in outcomes


def test_a_wrong_key_is_named(
    tmp_path: Path, start_server, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(InputError, match=r"HTTP 401.*check the key"):
        _write(_config(start_server()), tokenizer, tmp_path / "x.sqlite", range(3))


def test_a_server_that_is_not_there_costs_nothing(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    config = replace(_config(start_server()), base_url="http://127.0.0.1:9/v1", max_attempts=2)
    with pytest.raises(InputError, match="failed 2 times"):
        _write(config, tokenizer, tmp_path / "x.sqlite", range(2))
    outcomes = _rows(tmp_path / "x.sqlite", "SELECT DISTINCT outcome FROM attempts")
    assert outcomes == [("refused",)]


def test_the_cost_limit_is_never_passed(tmp_path: Path, start_server, tokenizer: Tokenizer) -> None:
    server = start_server(fault_rate=0.2, faults=["timeout", "truncated", "500"])
    journal = tmp_path / "x.sqlite"
    limit = 0.005
    with pytest.raises(InputError, match=r"stopped before --max-cost 0\.005"):
        _write(_config(server), tokenizer, journal, range(150), max_cost=limit)
    cost, possible = _rows(
        journal,
        "SELECT SUM(cost), SUM(CASE WHEN outcome IN ('lost', 'sent') THEN worst_cost ELSE 0 END) "
        "FROM attempts",
    )[0]
    assert 0.5 * limit < cost + possible <= limit
    billed = server.stats()["billed"]
    assert billed == len(_rows(journal, "SELECT hash FROM answers"))
    with pytest.raises(InputError, match="max-cost"):
        _write(_config(server), tokenizer, journal, range(150), max_cost=limit)
    drafts = _write(_config(server), tokenizer, journal, range(150), max_cost=1.0)
    assert len(drafts) == 150
    assert server.stats()["distinct"] == server.stats()["billed"] == 150
