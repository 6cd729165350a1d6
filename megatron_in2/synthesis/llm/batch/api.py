"""The Batch API's own calls: file, batch, look, results. They are free, and tried patiently."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import openai
from openai.types import Batch

from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.failures import FailedCallError, Redactor, with_retries

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TOKEN_NAME = "megatron_in2_batch"  # in a batch's metadata
ENDED = ("completed", "expired", "cancelled", "failed")
_POLL_PATIENCE = 6  # times as many tries for a look at a batch, which goes on meanwhile
_QUEUE_WORDS = ("token_limit_exceeded", "enqueued token limit", "enqueued_token")

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Ended:
    """A batch at its end: its lines by custom id, and what the server says of it.

    ``lost`` says that lines are missing that were done and so perhaps billed.
    """

    status: str
    lines: dict[str, dict[str, Any]]
    lost: bool
    reasons: str

    @property
    def was_queue_full(self) -> bool:
        """Whether it failed only since too many tokens were waiting."""
        return self.status == "failed" and any(word in self.reasons for word in _QUEUE_WORDS)


class BatchApi:
    """Files and batches at the server.

    Args:
        config: the openai section.
        client: the client, its own retries off.
        redact: takes keys out of what is raised.
    """

    def __init__(self, config: OpenAIConfig, client: openai.AsyncOpenAI, redact: Redactor) -> None:
        self._config = config
        self._client = client
        self._redact = redact

    async def close(self) -> None:
        await self._client.close()

    async def upload(self, token: str, content: bytes) -> str:
        """Upload a batch's lines; return the file's id.

        Raises:
            FailedCallError: refused, for its size (status 413) or otherwise.
            InputError: the server failed each time.
        """

        async def call() -> str:
            file = (f"{token}.jsonl", content)
            return (await self._client.files.create(file=file, purpose="batch")).id

        return await self._patiently(call)

    async def find(self, token: str, started: float) -> str | None:
        """Return the id of the batch with this token, or None."""
        return await self._patiently(lambda: self._known(token, started))

    async def find_or_create(self, token: str, started: float, file: str) -> str:
        """Return the id of the batch with this token; create it if there is none.

        Raises:
            FailedCallError: refused, since too many tokens wait (``is_queue_full``) or otherwise.
            InputError: the server failed each time.
        """

        async def call() -> str:
            if (known := await self._known(token, started)) is not None:
                return known
            created = await self._client.batches.create(
                input_file_id=file,
                endpoint=ENDPOINT,
                completion_window="24h",
                metadata={TOKEN_NAME: token},
            )
            return created.id

        return await self._patiently(call)

    async def _known(self, token: str, started: float) -> str | None:
        async for known in self._client.batches.list(limit=100):
            if (known.metadata or {}).get(TOKEN_NAME) == token:
                return known.id
            if known.created_at < started - 86_400:  # newest first: older ones are not ours
                break
        return None

    async def wait_for_end(self, remote: str, progress: Callable[[int], None]) -> Ended:
        """Look at a batch until it has ended, and fetch its results."""
        while True:
            batch = await self._patiently(
                lambda: self._client.batches.retrieve(remote), _POLL_PATIENCE
            )
            if batch.request_counts is not None:
                progress(batch.request_counts.completed)
            if batch.status in ENDED:
                return await self._results(batch)
            await asyncio.sleep(self._config.batch_poll_seconds)

    async def _results(self, batch: Batch) -> Ended:
        lines: dict[str, dict[str, Any]] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                for line in (await self._content(file)).splitlines():
                    if (read := _line(line)) is not None:
                        lines[read["custom_id"]] = read
        good = sum(_status(line) == 200 for line in lines.values())
        done = batch.request_counts.completed if batch.request_counts is not None else 0
        errors = (batch.errors and batch.errors.data) or []
        reasons = "; ".join(f"{error.code}: {error.message}" for error in errors)[:300]
        lost = good < done or batch.status == "completed"
        return Ended(batch.status, lines, lost, self._redact(reasons))

    async def _content(self, file: str) -> str:
        """Return a result file; one that the server has no more is empty."""

        async def call() -> str:
            return (await self._client.files.content(file)).text

        try:
            return self._redact.body(await self._patiently(call))
        except FailedCallError:
            return ""

    async def _patiently(
        self, call: Callable[[], Awaitable[_Result]], patience: int = 1
    ) -> _Result:
        config = self._config
        attempts = config.max_attempts * patience
        return await with_retries(
            call,
            attempts,
            config.first_backoff_seconds,
            self._redact,
            lambda failure: not failure.retry or is_queue_full(failure),
        )


def is_queue_full(failure: FailedCallError) -> bool:
    """Whether a batch was refused only since too many tokens are waiting."""
    return any(word in failure.message for word in _QUEUE_WORDS)


def _line(text: str) -> dict[str, Any] | None:
    """Read one line of results; None where nobody can: what it answered counts as lost."""
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) and isinstance(line.get("custom_id"), str) else None


def _status(line: dict[str, Any]) -> Any:
    response = line.get("response")
    return response.get("status_code") if isinstance(response, dict) else None
