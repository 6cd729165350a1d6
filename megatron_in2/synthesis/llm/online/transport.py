"""Sends requests one by one, many at a time, with limits, retries and waits."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.envelopes import Reply, priced_reply
from megatron_in2.synthesis.llm.failures import FailedCallError, backoff
from megatron_in2.synthesis.llm.health import ServerHealth
from megatron_in2.synthesis.llm.journal.journal import Refusal
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.online.endpoint import ChatEndpoint
from megatron_in2.synthesis.llm.online.limiter import RateLimiter
from megatron_in2.synthesis.llm.spending import Price
from megatron_in2.synthesis.llm.transport import Request, StoppedError, given_up

_MOST_EXPLAINED = 3  # refusals of one request that say how to put it; more are about the prompt
_Result = TypeVar("_Result")


class OnlineTransport:
    """Sends requests one by one, many at a time; each attempt is booked before it is sent.

    Args:
        config: the openai section.
        endpoint: the server.
        ledger: books attempts.
        price: the model's.
        dialect: how the server wants payloads.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        endpoint: ChatEndpoint,
        ledger: Ledger,
        price: Price,
        dialect: Dialect,
    ) -> None:
        self.window = 2 * config.concurrency  # those that wait for a retry block nobody
        self._config = config
        self._endpoint = endpoint
        self._ledger = ledger
        self._price = price
        self._dialect = dialect
        self._health = ServerHealth(ledger.journal, ledger.commits)
        self._slots = asyncio.Semaphore(config.concurrency)
        self._limiter = RateLimiter(config.requests_per_minute, config.tokens_per_minute)
        self._idle: set[asyncio.Task[object]] = set()
        self._stopping = False

    async def send(self, request: Request) -> Reply:
        """Return the reply, after as many attempts as it takes.

        A request that an earlier run gave up is tried once more: the server may answer it now.
        """
        earlier = self._ledger.journal.refusal(request.key)
        prompt_tokens = request.count_tokens()
        failed = explained = 0
        answers_before = self._health.answers
        while True:
            try:
                return await self._attempt(request, prompt_tokens)
            except FailedCallError as failure:
                problem = failure
            if problem.hopeless:
                raise InputError(problem.message)
            if explained < _MOST_EXPLAINED and await self._dialect.explains(
                problem, request.payload
            ):
                explained += 1
                continue
            if earlier is not None:
                return given_up(earlier)
            if problem.is_limit:
                self._health.limited(problem.message)
                continue
            failed += 1
            if not problem.retry or failed >= self._config.max_attempts:
                refusal = Refusal(problem.status, problem.message)
                await self._health.give_up(request.key, refusal, not problem.retry, answers_before)
                return given_up(refusal)
            pause = backoff(failed, self._config.first_backoff_seconds)
            await self._interruptibly(asyncio.sleep(pause))

    def expected(self, key: bytes) -> None:
        """Nothing is to come: what an earlier run sent is gone with its connection."""

    def stop(self) -> None:
        self._stopping = True
        for task in self._idle:
            task.cancel()

    async def close(self) -> None:
        await self._endpoint.close()

    async def _attempt(self, request: Request, prompt_tokens: int) -> Reply:
        worst_cost = self._price.worst_cost(prompt_tokens, request.max_answer_tokens)
        await self._interruptibly(self._slots.acquire())
        try:
            tokens = prompt_tokens + request.max_answer_tokens
            turn = await self._interruptibly(self._limiter.turn(tokens))
            await self._interruptibly(self._ledger.reserve(worst_cost))
            payload = self._dialect.fit(request.payload)
            attempt = await self._ledger.begin(request.key, payload, worst_cost)
            try:
                if self._stopping:
                    raise FailedCallError("stopped before it was sent", retry=True)
                envelope, body = await self._endpoint.complete(payload)
            except FailedCallError as failure:
                await self._ledger.fail(attempt, failure, worst_cost)
                if failure.is_limit:
                    self._limiter.refused(turn, failure.wait_seconds)
                else:
                    self._limiter.hold(failure.wait_seconds)
                raise
            self._limiter.answered(turn)
            self._health.answered()
            reply = priced_reply(envelope, self._price, worst_cost)
            await self._ledger.finish(attempt, request.key, body, reply, worst_cost)
            return reply
        finally:
            self._slots.release()

    async def _interruptibly(self, waiting: Coroutine[Any, Any, _Result]) -> _Result:
        """Wait for something that costs nothing to give up when the run ends."""
        task = asyncio.current_task()
        assert task is not None
        if self._stopping:
            waiting.close()
            raise StoppedError
        self._idle.add(task)
        try:
            return await waiting
        except asyncio.CancelledError:
            if self._stopping:
                raise StoppedError from None
            raise
        finally:
            self._idle.discard(task)
