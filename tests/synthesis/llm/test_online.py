"""Requests one by one against the server process: limits, waits, refusals, hostile replies."""

import asyncio
import contextlib
import sqlite3
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.envelopes import read_reply
from megatron_in2.synthesis.llm.failures import Redactor
from megatron_in2.synthesis.llm.journal.journal import Journal, JournalSummary
from megatron_in2.synthesis.llm.online.endpoint import ChatEndpoint
from megatron_in2.synthesis.llm.transport import StoppedError
from megatron_in2.synthesis.llm.writer import LanguageModelWriter, build_language_model_writer
from megatron_in2.synthesis.quality.config import CheckerConfig
from megatron_in2.synthesis.questions.writer import Draft, Evidence
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
    """Write questions as a run does: the first error ends it, what is under way is finished."""

    async def work(writer: LanguageModelWriter) -> list[Draft]:
        asked = [asyncio.create_task(writer.write(_evidence(number))) for number in numbers]
        try:
            await asyncio.wait(asked, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            writer.stop()
            await asyncio.wait(asked)
            await writer.close()
        errors = [task.exception() for task in asked]
        for error in sorted(
            filter(None, errors), key=lambda error: isinstance(error, StoppedError)
        ):
            raise error
        return [task.result() for task in asked]

    return asyncio.run(
        work(build_language_model_writer(config, False, tokenizer, journal, max_cost))
    )


def _summary(journal: Path) -> JournalSummary:
    with contextlib.closing(Journal(journal)) as kept:
        return kept.summary()


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
    server = start_server(fault_rate=0.5, faults=["429 with Retry-After"])
    config = _config(server, concurrency=1)
    _write(config, tokenizer, tmp_path / "x.sqlite", range(2))
    stats = server.stats()
    assert stats["faults"]["429 with Retry-After"] >= 1
    assert stats["early"] == 0


def test_rate_limits_spread_requests(tmp_path: Path, start_server, tokenizer: Tokenizer) -> None:
    server = start_server()
    by_requests = _config(server, requests_per_minute=600)
    started = time.monotonic()
    _write(by_requests, tokenizer, tmp_path / "x.sqlite", range(25))
    # 600 a minute: a burst of 10 at most, then one each tenth of a second.
    assert server.stats()["times"][-1] - started >= 1.4
    by_tokens = _config(server, tokens_per_minute=60_000, max_answer_tokens=100)
    started = time.monotonic()
    _write(by_tokens, tokenizer, tmp_path / "y.sqlite", range(100, 108))
    # Each request reserves more than 300 tokens, and 1,000 a second may pass.
    assert server.stats()["times"][-1] - started >= 1.0


def test_a_server_without_schemas_is_asked_in_plain_text(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(no_schema=True), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, range(40))
    assert sum(draft.problem is None for draft in drafts) > 30
    tries = server.stats()["tries"]
    assert _write(_config(server), tokenizer, journal, range(40)) == drafts
    assert server.stats()["tries"] == tries
    _write(_config(server), tokenizer, journal, range(40, 44))
    with contextlib.closing(Journal(journal)) as kept:
        payloads = [payload for payload, _ in kept.entries()]
    assert sum("response_format" in payload for payload in payloads) <= 40


def test_a_schema_refused_late_is_paid_for_once(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(schema_refused_after=60), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, range(100))
    assert server.stats()["billed"] == 100
    assert _write(_config(server), tokenizer, journal, range(100)) == drafts
    stats = server.stats()
    assert stats["billed"] == stats["distinct"] == stats["tries"] == 100


def test_a_server_may_want_the_other_name_of_the_limit(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(wants_completion_tokens=True), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, range(30))
    assert sum(draft.problem is None for draft in drafts) > 20
    named = _config(server, limit_parameter="max_completion_tokens")
    assert _write(named, tokenizer, journal, range(30)) == drafts
    assert server.stats()["billed"] == 30


def test_further_fields_are_sent(tmp_path: Path, start_server, tokenizer: Tokenizer) -> None:
    config = _config(
        start_server(), temperature=None, reasoning_effort="low", extra_body={"top_k": 20}
    )
    _write(config, tokenizer, tmp_path / "x.sqlite", range(1))
    with contextlib.closing(Journal(tmp_path / "x.sqlite")) as journal:
        ((payload, _),) = journal.entries()
    assert "temperature" not in payload
    assert (payload["reasoning_effort"], payload["top_k"]) == ("low", 20)


@pytest.mark.parametrize("prompts", ["strict", "paper"])
def test_replies_that_break_readers_are_rejected_for_good(
    tmp_path: Path, start_server, tokenizer: Tokenizer, prompts: str
) -> None:
    server, journal = start_server(poison=0.3), tmp_path / "x.sqlite"
    config = _config(server, prompts=prompts)
    drafts = _write(config, tokenizer, journal, range(100))
    problems = Counter(draft.problem for draft in drafts)
    assert problems["unreadable characters"] + problems["malformed reply"] > 20
    assert problems[None] > 50
    for draft in drafts:  # what is used can be tokenised and written
        tokenizer.encode(draft.question + draft.answer)
        (draft.question + draft.answer).encode()
    tries = server.stats()["tries"]
    assert _write(config, tokenizer, journal, range(100)) == drafts
    assert server.stats()["tries"] == tries


@pytest.mark.parametrize("status", [400, 403, 404, 413, 500])
def test_a_prompt_that_always_fails_is_given_up(
    tmp_path: Path, start_server, tokenizer: Tokenizer, status: int
) -> None:
    server, journal = start_server(status_for={"river7 ": status}), tmp_path / "x.sqlite"
    config = _config(server, max_attempts=3)
    drafts = _write(config, tokenizer, journal, range(40))
    assert f"(HTTP {status})" in str(drafts[7].problem)
    assert sum(draft.problem is None for draft in drafts) > 30
    summary = _summary(journal)
    assert (summary.given_up, summary.refused) == (1, 3 if status == 500 else 1)
    again = _write(config, tokenizer, journal, range(40))
    assert again == drafts
    assert _summary(journal).refused == summary.refused + 1  # asked once more, and no oftener
    server.change(status_for={})
    fixed = _write(config, tokenizer, journal, range(40))
    assert fixed[7].problem is None
    assert fixed[:7] + fixed[8:] == drafts[:7] + drafts[8:]
    assert _summary(journal).given_up == 0


def test_a_server_that_was_at_fault_is_asked_again(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(always=400), tmp_path / "x.sqlite"
    with pytest.raises(InputError, match="refused 50 requests in a row"):
        _write(_config(server), tokenizer, journal, range(60))
    assert _summary(journal).given_up == 0
    server.change(always=None)
    drafts = _write(_config(server), tokenizer, journal, range(60))
    assert all("refused" not in str(draft.problem).replace("model refused", "") for draft in drafts)
    assert server.stats()["billed"] == 60


def test_replies_without_usage_are_booked_at_their_worst(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(no_usage=True), tmp_path / "x.sqlite"
    with pytest.raises(InputError, match="max-cost"):
        _write(_config(server), tokenizer, journal, range(120), max_cost=0.01)
    summary = _summary(journal)
    assert 0.008 < summary.cost <= 0.01
    worst = (250 * 0.15 + 512 * 0.60) / 1e6
    assert summary.answers == server.stats()["billed"] <= 0.01 / worst


def test_slow_replies_hold_up_no_others(tmp_path: Path, start_server, tokenizer: Tokenizer) -> None:
    server = start_server(slow=(0.02, 4.0))
    _write(_config(server, timeout_seconds=30.0), tokenizer, tmp_path / "x.sqlite", range(400))
    stats = server.stats()
    assert stats["billed"] == 400
    assert stats["before_first_slow"] > 200  # far more than fit into a window that waits for it


@pytest.mark.parametrize("where", ["a refusal", "an answer"])
def test_the_key_is_written_nowhere(
    tmp_path: Path, start_server, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    key = "wrong-secret-0123456789" if where == "a refusal" else "secret-key-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    journal = tmp_path / "x.sqlite"
    config = _config(start_server(echo_key=True, status_for={"river7 ": 400}))
    if where == "a refusal":
        with pytest.raises(InputError, match=r"HTTP 401.*check the key") as caught:
            _write(config, tokenizer, journal, range(3))
        assert "secret" not in str(caught.value)
    else:
        _write(config, tokenizer, journal, range(10))
    with contextlib.closing(Journal(journal)) as kept:
        held = str(list(kept.entries())) + str(kept._database.execute("SELECT * FROM attempts"))
        errors = kept._database.execute("SELECT error FROM attempts").fetchall()
    assert "[key]" in str(errors)
    assert "secret" not in str(errors) + held


def test_connections_are_kept_while_replies_name_themselves(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    async def connections(named: bool) -> tuple[int, int]:
        """Return how many of 60 requests came over how many connections."""
        seen: set[object] = set()

        async def answer(request: web.Request) -> web.Response:
            seen.add(request.transport)
            payload = await request.json()
            return web.json_response(
                {
                    "id": str(payload["number"]) if named else "always-this",
                    "choices": [{"message": {"content": str(payload["number"])}}],
                }
            )

        app = web.Application()
        app.router.add_post("/v1/chat/completions", answer)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        endpoint = ChatEndpoint(f"http://127.0.0.1:{port}/v1", "key", 5.0, Redactor("key"))
        for number in range(60):
            envelope, _ = await endpoint.complete({"number": number})
            assert read_reply(envelope).text == str(number)
        await endpoint.close()
        await runner.cleanup()
        return 60, len(seen)

    assert asyncio.run(connections(named=True))[1] <= 18
    assert asyncio.run(connections(named=False))[1] == 60


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
        ({"always": 404}, "refused 50 requests in a row, lastly: HTTP 404"),
        ({"always": 403}, "refused 50 requests in a row, lastly: HTTP 403"),
        ({"always": 429, "code": "insufficient_quota"}, "its quota"),
        ({"always": 503}, "5 requests in a row failed.*HTTP 503.*run again to go on"),
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
    with pytest.raises(InputError, match="5 requests in a row failed"):
        _write(config, tokenizer, tmp_path / "x.sqlite", range(6))
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
    assert billed == _summary(journal).answers
    with pytest.raises(InputError, match="max-cost"):
        _write(_config(server), tokenizer, journal, range(150), max_cost=limit)
    drafts = _write(_config(server), tokenizer, journal, range(150), max_cost=1.0)
    assert len(drafts) == 150
    assert server.stats()["distinct"] == server.stats()["billed"] == 150


def test_another_model_checks_at_its_own_server(
    tmp_path: Path, start_server, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, other = start_server(), start_server()
    monkeypatch.setenv("CHECK_KEY", "another")
    checker = CheckerConfig("gpt-4.1", other.url, "CHECK_KEY", temperature=None)
    draft = Draft("What is told of it?", "It is told of much.")

    async def work() -> tuple[list[bool], float | None]:
        writer = build_language_model_writer(
            _config(server), False, tokenizer, tmp_path / "x.sqlite", 1.0, checker
        )
        evidence = [_evidence(number) for number in range(12)]
        await writer.write(evidence[0])
        new = await writer.reword(evidence[0], draft, ("told",))
        assert new.question
        supported = [await writer.supports(each, draft) for each in evidence]
        right = [await writer.is_right(draft, f"guess {number}") for number in range(12)]
        writer.stop()
        await writer.close()
        assert {True, False} == set(right)
        return supported, writer.used_cost()

    supported, cost = asyncio.run(work())
    assert sum(supported) > 6
    assert server.stats()["billed"] == 2
    assert other.stats()["billed"] == 24
    # 300 prompt tokens and 50 of the reply each, by each model's own price.
    assert cost == pytest.approx(2 * (300 * 0.15 + 50 * 0.6) / 1e6 + 24 * (300 * 2 + 50 * 8) / 1e6)
    summary = _summary(tmp_path / "x.sqlite")
    assert summary.answers == 26
    assert summary.cost == pytest.approx(cost)
