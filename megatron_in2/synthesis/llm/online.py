"""Sends requests one by one through the async OpenAI client, with limits, retries and waits."""

import asyncio
import itertools
import time
from typing import Any

import openai
from aiolimiter import AsyncLimiter

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.failures import FailedCallError, as_failure, backoff
from megatron_in2.synthesis.llm.ledger import Ledger
from megatron_in2.synthesis.llm.replies import checked_envelope, refusal_envelope
from megatron_in2.synthesis.llm.transport import StoppedError


class OnlineTransport:
    """Sends requests one by one, many at a time, through the async OpenAI client.

    The client's own retries are off: each attempt is booked here. A request waits for its turn
    under both rate limits; a ``Retry-After`` holds back all requests, not just the one it hit.
    """

    def __init__(self, config: OpenAIConfig, client: openai.AsyncOpenAI, ledger: Ledger) -> None:
        self.window = 2 * config.concurrency  # those that wait for a retry block nobody
        self._config = config
        self._client = client
        self._ledger = ledger
        self._slots = asyncio.Semaphore(config.concurrency)
        self._requests = _per_minute(config.requests_per_minute)
        self._tokens = _per_minute(config.tokens_per_minute)
        self._not_before = 0.0
        self._stopping = asyncio.Event()

    async def send(self, key: str, payload: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
        """Return the reply, after as many attempts as it takes.

        Raises:
            InputError: no attempt brought a reply, or none may be made.
            StoppedError: the run is ending.
        """
        worst_cost = self._ledger.worst_cost(payload, prompt_tokens)
        for tries in itertools.count(1):
            async with self._slots:
                await self._turn(prompt_tokens + int(payload["max_tokens"]))
                await self._ledger.reserve(worst_cost)
                self._check_stopping()
                attempt = self._ledger.begin(key, payload, worst_cost)
                try:
                    envelope = await self._attempt(payload)
                except FailedCallError as failure:
                    self._ledger.fail(attempt, failure, worst_cost)
                    self._hold(failure.wait_seconds)
                    problem = failure
                else:
                    self._ledger.finish(attempt, key, envelope, worst_cost)
                    return envelope
            if problem.hopeless:
                raise InputError(problem.message)
            if tries == self._config.max_attempts:
                raise InputError(
                    f"a request failed {tries} times, lastly: {problem.message}; answers are "
                    "kept: run again to go on"
                )
            await self._sleep(backoff(tries, self._config.first_backoff_seconds))
        raise AssertionError("the loop ends by itself")

    def stop(self) -> None:
        self._stopping.set()

    async def close(self) -> None:
        await self._client.close()

    async def _attempt(self, payload: dict[str, Any]) -> dict[str, Any]:
        """Make one attempt; a request that the server refuses for good counts as answered."""
        try:
            response = await self._client.chat.completions.with_raw_response.create(**payload)
        except openai.OpenAIError as error:
            failure = as_failure(error)
            if failure.retry or failure.hopeless:
                raise failure from error
            return refusal_envelope(failure)
        return checked_envelope(response.text)

    async def _turn(self, tokens: int) -> None:
        """Wait until one more request may be sent: both limits and every Retry-After allow it."""
        self._check_stopping()
        if self._requests is not None:
            await self._requests.acquire()
        while self._tokens is not None and tokens > 0:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))
            tokens -= int(self._tokens.max_rate)
        while (wait := self._not_before - time.monotonic()) > 0:
            await self._sleep(wait)
        self._check_stopping()

    def _hold(self, seconds: float) -> None:
        self._not_before = max(self._not_before, time.monotonic() + seconds)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except TimeoutError:
            return
        self._check_stopping()

    def _check_stopping(self) -> None:
        if self._stopping.is_set():
            raise StoppedError


def _per_minute(limit: int) -> AsyncLimiter | None:
    """Return a limiter that lets ``limit`` through in any minute, spread evenly; None for 0."""
    if not limit:
        return None
    burst = max(limit / 61, 1.0)
    per_second = max(limit - burst, limit / 2) / 60
    return AsyncLimiter(burst, burst / per_second)
