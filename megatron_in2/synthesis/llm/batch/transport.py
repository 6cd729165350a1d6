"""Has requests answered by the Batch API: half the price, hours of patience.

A batch goes through: written down -> file uploaded -> batch created -> ended -> collected. Each
step is in the journal before the next one, so a run stopped between any two goes on: it looks for
its batch at the server by a token in the batch's metadata before it creates one. A batch that is
not at the server yet may be split: when limits were lowered, or its file is too large.
"""

import asyncio
import json
import uuid
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.batch.api import BatchApi, Ended
from megatron_in2.synthesis.llm.batch.course import BatchCourse, batch_line
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.envelopes import Reply, checked_envelope, priced_reply
from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.health import ServerHealth
from megatron_in2.synthesis.llm.journal.journal import BatchRequest, OpenBatch, Refusal
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.spending import Price
from megatron_in2.synthesis.llm.transport import Request, StoppedError, given_up

QUIET_SECONDS = 1.0  # a batch is closed when no request came for so long
_BYTES_PER_TOKEN = 3  # for a request of an earlier run, whose tokens nobody has counted


@dataclass(frozen=True)
class _Gathered:
    """A request on its way into a batch."""

    key: bytes
    payload: dict[str, Any]
    worst_cost: float
    prompt_tokens: int
    size: int


class BatchTransport:
    """Gathers requests into batches; several are under way at once.

    Args:
        config: the openai section.
        api: files and batches at the server.
        ledger: books attempts.
        price: the model's.
        dialect: how the server wants payloads.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        api: BatchApi,
        ledger: Ledger,
        price: Price,
        dialect: Dialect,
    ) -> None:
        self.window = config.batch_requests * config.batches_at_once
        self._config = config
        self._api = api
        self._ledger = ledger
        self._price = price
        self._dialect = dialect
        self._health = ServerHealth(ledger.journal, ledger.commits)
        self._course = BatchCourse(config, api, ledger.journal, ledger.commits, dialect, self._book)
        self._gathered: list[_Gathered] = []
        self._gathered_bytes = self._gathered_tokens = 0
        self._closing_gathered: asyncio.TimerHandle | None = None
        self._replies: dict[bytes, asyncio.Future[Reply]] = {}
        self._tries: dict[bytes, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._adopted = False
        self._stopping = False

    async def send(self, request: Request) -> Reply:
        """Return the reply, which comes with a whole batch."""
        self._adopt_open_batches()
        if self._stopping:
            raise StoppedError
        if request.key not in self._replies:
            self._replies[request.key] = asyncio.get_running_loop().create_future()
            tokens = request.count_tokens()
            worst_cost = self._price.worst_cost(tokens, request.max_answer_tokens)
            self._gather(request.key, request.payload, worst_cost, tokens)
        return await asyncio.shield(self._replies[request.key])

    def expected(self, key: bytes) -> asyncio.Future[Reply] | None:
        self._adopt_open_batches()
        return self._replies.get(key)

    def stop(self) -> None:
        """Send nothing new; batches at the server are left to the next run."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        self._fail(self._replies, StoppedError())

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._api.close()

    def _adopt_open_batches(self) -> None:
        """Go on with batches that a stopped run left; their worst cost counts as spent so far."""
        if self._adopted:
            return
        self._adopted = True
        loop = asyncio.get_running_loop()
        for batch in self._ledger.journal.open_batches():
            for request in batch.requests:
                self._replies.setdefault(request.key, loop.create_future())
            self._follow(self._course.run(batch, adopted=True), [r.key for r in batch.requests])

    def _gather(
        self, key: bytes, payload: dict[str, Any], worst_cost: float, tokens: int | None
    ) -> None:
        size = len(batch_line(key.hex(), self._dialect.fit(payload)))
        tokens = size // _BYTES_PER_TOKEN if tokens is None else tokens
        config = self._config
        if (
            len(self._gathered) >= config.batch_requests
            or self._gathered_bytes + size > config.batch_bytes
            or 0 < config.batch_tokens < self._gathered_tokens + tokens
        ):
            self._submit_gathered()
        self._gathered.append(_Gathered(key, payload, worst_cost, tokens, size))
        self._gathered_bytes += size
        self._gathered_tokens += tokens
        if self._closing_gathered is not None:
            self._closing_gathered.cancel()
        loop = asyncio.get_running_loop()
        self._closing_gathered = loop.call_later(QUIET_SECONDS, self._submit_gathered)

    def _submit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        self._gathered_bytes = self._gathered_tokens = 0
        if gathered and not self._stopping:
            self._follow(self._begin(gathered), [each.key for each in gathered])

    async def _begin(self, gathered: list[_Gathered]) -> None:
        """Journal as much of a batch as the budget allows, and run it to its end."""
        affordable = []
        try:
            for request in gathered:
                self._ledger.reserve_now(request.worst_cost)
                affordable.append((request.key, request.payload, request.worst_cost))
        except InputError as error:
            self._fail([each.key for each in gathered[len(affordable) :]], error)
        gathered.clear()  # the journal holds the payloads from here on
        if affordable:
            journal, token = self._ledger.journal, uuid.uuid4().hex
            batch = await self._ledger.commits.write(lambda: journal.begin_batch(token, affordable))
            affordable.clear()
            await self._course.run(batch)

    def _follow(self, work: Coroutine[Any, Any, None], keys: list[bytes]) -> None:
        async def follow() -> None:
            try:
                await work
            except Exception as error:  # raised by those who wait for its replies
                self._fail(keys, error)

        task = asyncio.get_running_loop().create_task(follow())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _book(self, batch: OpenBatch, ended: Ended) -> None:
        """Journal all replies in one commit, return them, and gather the failed requests again."""
        replies: dict[BatchRequest, tuple[Reply, bytes]] = {}
        failures: dict[BatchRequest, FailedCallError] = {}
        for request in batch.requests:
            try:
                envelope, body = _completion(ended.lines.get(request.name), ended.lost)
            except FailedCallError as failure:
                failures[request] = failure
            else:
                reply = priced_reply(envelope, self._price, request.worst_cost)
                replies[request] = (reply, body)
        await self._write_down(batch, replies, failures)
        for request, (reply, _) in replies.items():
            self._ledger.settle(request.worst_cost, reply.cost)
            self._hand_out(request.key, reply)
        for request, problem in failures.items():
            self._ledger.settle_lost(request.worst_cost, problem.perhaps_billed)
            if ended.status != "failed":
                await self._try_again(request, problem, some_answered=bool(replies))

    async def _write_down(
        self,
        batch: OpenBatch,
        replies: dict[BatchRequest, tuple[Reply, bytes]],
        failures: dict[BatchRequest, FailedCallError],
    ) -> None:
        journal = self._ledger.journal

        def write() -> None:
            for request, (reply, body) in replies.items():
                tokens = reply.usage.completion_tokens if reply.usage is not None else 0
                journal.finish(request.attempt, request.key, body, reply.cost, tokens)
            for request, failure in failures.items():
                journal.fail(request.attempt, failure.message, failure.perhaps_billed)
            journal.close_batch(batch.token)

        await self._ledger.commits.write(write, synced=True)

    async def _try_again(
        self, request: BatchRequest, failure: FailedCallError, some_answered: bool
    ) -> None:
        """Put a failed request into the next batch, or give it up."""
        key, journal = request.key, self._ledger.journal
        payload, earlier = journal.payload(key), journal.refusal(key)
        explained = await self._dialect.explains(failure, payload)
        # What ran out of time in a batch that was worked on says nothing about the request.
        if failure.status is not None or failure.perhaps_billed or not some_answered:
            self._tries[key] = self._tries.get(key, 0) + 1
        again = explained or (failure.retry and earlier is None)
        if again and self._tries.get(key, 0) < self._config.max_attempts:
            self._gather(key, payload, request.worst_cost, None)
            return
        refusal = earlier or Refusal(failure.status, failure.message)
        if earlier is None:
            if some_answered:
                self._health.answered()  # so the server is not at fault
            before = self._health.answers - some_answered
            await self._health.give_up(key, refusal, not failure.retry, before)
        self._hand_out(key, given_up(refusal))

    def _hand_out(self, key: bytes, reply: Reply) -> None:
        """Give a reply to those who wait for it; the journal has it for all others."""
        waiting = self._replies.pop(key, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def _fail(self, keys: Iterable[bytes], error: Exception) -> None:
        for key in keys:
            waiting = self._replies.get(key)
            if waiting is not None and not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # seen: nobody may be waiting for it


def _completion(line: dict[str, Any] | None, lost: bool) -> tuple[dict[str, Any], bytes]:
    """Return the chat completion in one line of a batch's results, and its JSON.

    Args:
        line: None where there is none for this request.
        lost: whether a missing line may have been billed.

    Raises:
        FailedCallError: there is no reply.
    """
    if line is None:
        raise FailedCallError("missing in the results", retry=True, perhaps_billed=lost)
    response = line.get("response")
    if not isinstance(response, dict):
        raise FailedCallError(str(line.get("error"))[:200], retry=True)
    status = response.get("status_code")
    if status == 200:
        body = json.dumps(response.get("body"))
        return checked_envelope(body), body.encode()
    refused = isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 429)
    message = f"HTTP {status}: {str(response.get('body'))[:200]}"
    raise FailedCallError(message, not refused, status=status if isinstance(status, int) else 0)
