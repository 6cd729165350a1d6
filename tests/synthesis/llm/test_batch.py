"""The Batch API against the server process: limits, full queues, lost and refused lines."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.journal.journal import Journal, JournalSummary
from megatron_in2.synthesis.llm.prompts import load_prompts
from megatron_in2.synthesis.llm.requests import RequestMaker
from megatron_in2.synthesis.llm.transport import StoppedError
from megatron_in2.synthesis.llm.writer import build_language_model_writer, question_request
from megatron_in2.synthesis.questions.writer import Draft, Evidence
from megatron_in2.tokenizers.base import Tokenizer
from tests.synthesis.conftest import ServerProcess

pytestmark = pytest.mark.usefixtures("api_key")
PRICE = (300 * 0.15 + 50 * 0.60) / 1e6 / 2  # of one request at the Batch API


def _evidence(number: int) -> Evidence:
    words = ("river", "bridge", "winter", "letter", "garden", "engine", "mirror", "island")
    text = " ".join(f"{word}{number}" for word in words * 2)
    return Evidence(f"fine_grained/{number}", "fine_grained", (number,), (text,))


def _config(server: ServerProcess, **changes: Any) -> OpenAIConfig:
    settings = {
        "model": "gpt-4o-mini",
        "base_url": server.url,
        "timeout_seconds": 5.0,
        "first_backoff_seconds": 0.02,
        "batch_poll_seconds": 0.02,
        **changes,
    }
    return OpenAIConfig(**settings)


def _write(
    config: OpenAIConfig, tokenizer: Tokenizer, journal: Path, count: int
) -> list[Draft | BaseException]:
    async def work() -> list[Draft | BaseException]:
        writer = build_language_model_writer(config, True, tokenizer, journal, None)
        drafts = await asyncio.gather(
            *(writer.write(_evidence(number)) for number in range(count)), return_exceptions=True
        )
        writer.stop()
        await writer.close()
        return drafts

    return asyncio.run(work())


def _good(drafts: list[Any]) -> int:
    return sum(isinstance(draft, Draft) and draft.problem is None for draft in drafts)


def _summary(journal: Path) -> JournalSummary:
    with contextlib.closing(Journal(journal)) as kept:
        return kept.summary()


@pytest.mark.parametrize("limit", ["batch_bytes", "batch_tokens", "batch_requests"])
def test_batches_are_limited_and_run_at_once(
    tmp_path: Path, start_server, tokenizer: Tokenizer, limit: str
) -> None:
    limits = {"batch_bytes": 20_000, "batch_tokens": 3_000, "batch_requests": 10}
    server = start_server(slow_batches=0.05)
    config = _config(server, batches_at_once=3, **{limit: limits[limit]})
    drafts = _write(config, tokenizer, tmp_path / "x.sqlite", 60)
    assert _good(drafts) > 45
    stats = server.stats()
    assert 4 <= stats["batches"] <= 12
    assert stats["most_batches"] == 3
    if limit == "batch_bytes":
        assert max(stats["file_sizes"]) <= 20_000
    assert stats["billed"] == stats["distinct"] == 60


def test_a_file_too_large_for_the_server_is_split(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(file_limit=20_000), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, 60)
    assert _good(drafts) > 45
    summary = _summary(journal)
    assert (summary.attempts, summary.answers, summary.possible_cost) == (60, 60, 0.0)
    assert max(server.stats()["file_sizes"]) <= 20_000


def test_one_request_too_large_for_the_server_is_given_up(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(file_limit=100), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, 3)
    assert {str(draft.problem) for draft in drafts} == {"the server refused it (HTTP 413)"}
    assert _summary(journal).possible_cost == 0.0


def test_an_open_batch_is_split_when_limits_were_lowered(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, path = start_server(file_limit=20_000), tmp_path / "x.sqlite"
    maker = RequestMaker(_config(server), load_prompts("strict"), tokenizer)
    asked = [question_request(maker, _evidence(number)) for number in range(60)]
    with contextlib.closing(Journal(path)) as journal:  # as a run that was killed leaves it
        journal.begin_batch("a" * 32, [(each.key, each.payload, 0.001) for each in asked])
    drafts = _write(_config(server, batch_bytes=10_000), tokenizer, path, 60)
    assert _good(drafts) > 45
    summary = _summary(path)
    assert (summary.attempts, summary.answers, summary.possible_cost) == (60, 60, 0.0)
    assert summary.cost == pytest.approx(60 * PRICE)
    stats = server.stats()
    assert stats["billed"] == 60
    assert max(stats["file_sizes"]) <= 10_000


def test_a_full_queue_is_waited_for_and_uses_no_attempt_up(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(queue_limit=1), tmp_path / "x.sqlite"
    config = _config(server, batch_requests=10, batches_at_once=4, max_attempts=1)
    drafts = _write(config, tokenizer, journal, 40)
    assert _good(drafts) > 30
    stats, summary = server.stats(), _summary(journal)
    assert stats["batches"] > 4  # some were refused for the queue
    assert (summary.attempts, summary.answers) == (40, 40)
    assert stats["billed"] == 40


def test_lost_lines_are_booked_at_their_worst_and_asked_again(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(lost_lines=0.2), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, 60)
    assert _good(drafts) > 45
    stats, summary = server.stats(), _summary(journal)
    lost = stats["billed"] - 60
    assert (summary.answers, summary.lost) == (60, lost)
    assert lost > 5
    assert summary.cost == pytest.approx(60 * PRICE)
    assert summary.cost + summary.possible_cost >= stats["billed"] * PRICE
    assert summary.possible_cost > 2 * lost * PRICE  # the worst: the longest reply


def test_refused_lines_are_given_up_and_the_others_kept(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(status_for={"river7 ": 400, "river8 ": 500}), tmp_path / "x"
    config = _config(server, max_attempts=2)
    drafts = _write(config, tokenizer, journal, 40)
    assert drafts[7].problem == "the server refused it (HTTP 400)"
    assert drafts[8].problem == "given up: the server failed each time (HTTP 500)"
    assert _good(drafts) > 28
    summary = _summary(journal)
    assert (summary.given_up, summary.answers) == (2, 38)
    server.change(status_for={})
    assert _good(_write(config, tokenizer, journal, 40)) == _good(drafts) + 2


def test_a_schema_refused_in_a_batch_is_left_out_of_the_next(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(no_schema=True), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, 30)
    assert _good(drafts) > 22
    assert server.stats()["batches"] == 2
    assert _summary(journal).given_up == 0


def test_a_batch_that_the_server_fails_ends_the_run(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server = start_server(fail_batches="the model is not known")
    drafts = _write(_config(server), tokenizer, tmp_path / "x.sqlite", 5)
    assert all(isinstance(draft, InputError | StoppedError) for draft in drafts)
    assert "the model is not known" in str(drafts[0])
    assert _summary(tmp_path / "x.sqlite").possible_cost == 0.0
    server.change(fail_batches=None)
    assert _good(_write(_config(server), tokenizer, tmp_path / "x.sqlite", 5)) >= 4


def test_poisoned_lines_harm_nobody_else(
    tmp_path: Path, start_server, tokenizer: Tokenizer
) -> None:
    server, journal = start_server(poison=0.2), tmp_path / "x.sqlite"
    drafts = _write(_config(server), tokenizer, journal, 60)
    assert _good(drafts) > 30
    assert _write(_config(server), tokenizer, journal, 60) == drafts
    assert json.dumps([str(draft) for draft in drafts]).isascii()
