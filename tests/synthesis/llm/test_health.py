"""A bad prompt is told from a bad server."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.health import MAX_LIMITED_SECONDS
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.online.transport import OnlineTransport
from megatron_in2.synthesis.llm.spending import FREE
from megatron_in2.synthesis.llm.transport import Request
from tests.synthesis.virtual_time import run

ENVELOPE = {"choices": [{"message": {"content": "yes"}}]}


class _InstantCommits:
    """Commits without a thread, which virtual time would not wait for."""

    async def write(self, write: Callable[[], Any], synced: bool = False) -> Any:
        return write()


class _Endpoint:
    """Answers, or fails as ``fail`` says by the request's number and the time."""

    def __init__(self, fail: Callable[[int, float], FailedCallError | None]) -> None:
        self._fail = fail
        self.calls = 0

    async def complete(self, payload: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        self.calls += 1
        await asyncio.sleep(0.1)
        failure = self._fail(payload["n"], asyncio.get_running_loop().time())
        if failure is not None:
            raise failure
        return ENVELOPE, b'{"choices": [{"message": {"content": "yes"}}]}'


def _ask(
    tmp_path: Path, endpoint: _Endpoint, count: int
) -> tuple[list[str | BaseException | None], float]:
    journal = Journal(tmp_path / "x.sqlite")
    ledger = Ledger(journal, None)
    ledger.commits = _InstantCommits()  # type: ignore[assignment]
    config = OpenAIConfig(concurrency=8, max_attempts=4)
    transport = OnlineTransport(
        config, endpoint, ledger, FREE, Dialect(journal, ledger.commits)  # type: ignore[arg-type]
    )  # fmt: skip

    async def ask() -> list[Any]:
        requests = [
            Request(b"%016d" % n, {"n": n, "max_tokens": 5}, lambda: 1, 5) for n in range(count)
        ]
        tasks = [asyncio.create_task(transport.send(request)) for request in requests]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        transport.stop()
        return await asyncio.gather(*tasks, return_exceptions=True)

    replies, seconds = run(ask())
    journal.close()
    return [
        reply if isinstance(reply, BaseException) else reply.problem for reply in replies
    ], seconds


def _errors(replies: list[Any]) -> list[str]:
    return [str(reply) for reply in replies if isinstance(reply, InputError)]


def test_a_server_that_is_full_for_good_ends_the_run(tmp_path: Path) -> None:
    full = FailedCallError("HTTP 429: full", retry=True, status=429)
    replies, seconds = _ask(tmp_path, _Endpoint(lambda *_: full), 20)
    assert any("for 15 minutes as one too many" in error for error in _errors(replies))
    assert MAX_LIMITED_SECONDS < seconds < 2 * MAX_LIMITED_SECONDS


def test_a_server_that_is_full_for_a_while_is_waited_for(tmp_path: Path) -> None:
    def fail(_: int, now: float) -> FailedCallError | None:
        return FailedCallError("full", retry=True, status=429) if now < 600 else None

    endpoint = _Endpoint(fail)
    replies, _ = _ask(tmp_path, endpoint, 20)
    assert replies == [None] * 20
    assert endpoint.calls < 700  # while it was full, it was asked now and then only


@pytest.mark.parametrize("status", [500, None])
def test_an_outage_that_ends_in_time_costs_nothing(tmp_path: Path, status: int | None) -> None:
    def fail(_: int, now: float) -> FailedCallError | None:
        return FailedCallError("down", retry=True, status=status) if now < 2 else None

    assert _ask(tmp_path, _Endpoint(fail), 20)[0] == [None] * 20


def test_a_server_that_is_down_ends_the_run(tmp_path: Path) -> None:
    down = FailedCallError("down", retry=True, status=503)
    replies, _ = _ask(tmp_path, _Endpoint(lambda *_: down), 20)
    assert any("5 requests in a row failed" in error for error in _errors(replies))


def test_bad_prompts_among_good_ones_are_given_up(tmp_path: Path) -> None:
    def fail(number: int, _: float) -> FailedCallError | None:
        if number % 10 == 3:
            return FailedCallError("broken", retry=True, status=500)
        return FailedCallError("no", retry=False, status=403) if number % 10 == 7 else None

    replies, _ = _ask(tmp_path, _Endpoint(fail), 300)
    problems = [reply for reply in replies if reply is not None]
    assert problems.count("given up: the server failed each time (HTTP 500)") == 30
    assert problems.count("the server refused it (HTTP 403)") == 30
    assert len(problems) == 60
