"""Has requests answered by the Batch API: half the price, hours of patience.

A batch goes through: written down -> file uploaded -> batch created -> ended -> collected. Each
step stands in the journal before the next one, so a run stopped between any two goes on: it
looks for its batch at the server by a token in the batch's metadata before it creates one.
"""

import asyncio
import json
import uuid
from typing import Any, Literal

import openai
from openai.types import Batch

from megatron_in2.errors import InputError
from megatron_in2.progress import progress_bar
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.failures import FailedCallError, with_retries
from megatron_in2.synthesis.llm.journal import OpenBatch
from megatron_in2.synthesis.llm.ledger import Ledger
from megatron_in2.synthesis.llm.replies import checked_envelope, refusal_envelope
from megatron_in2.synthesis.llm.transport import StoppedError

ENDPOINT: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TOKEN_NAME = "megatron_in2_batch"  # in a batch's metadata
QUIET_SECONDS = 1.0  # a batch is closed when no request came for so long
_ENDED = ("completed", "expired", "cancelled", "failed")


class BatchTransport:
    """Gathers requests into batches; several may be under way at once.

    Args:
        config: the openai section.
        client: the client, its own retries off.
        ledger: books attempts.
    """

    def __init__(self, config: OpenAIConfig, client: openai.AsyncOpenAI, ledger: Ledger) -> None:
        self.window = config.batch_requests
        self._config = config
        self._client = client
        self._ledger = ledger
        self._gathered: dict[str, tuple[dict[str, Any], float]] = {}
        self._replies: dict[str, asyncio.Future[dict[str, Any]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing_gathered: asyncio.TimerHandle | None = None
        self._recovered = False
        self._stopping = False

    async def send(self, key: str, payload: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
        """Return the reply, which comes with a whole batch.

        Raises:
            InputError: a batch fails, a request fails too often, or the budget is used up.
            StoppedError: the run is ending.
        """
        if not self._recovered:
            self._recovered = True
            for batch in self._ledger.journal.open_batches():
                self._adopt(batch)
        if self._stopping:
            raise StoppedError
        if key not in self._replies:
            self._replies[key] = asyncio.get_running_loop().create_future()
            self._gather(key, payload, self._ledger.worst_cost(payload, prompt_tokens))
        return await self._replies[key]

    def stop(self) -> None:
        """Send nothing new; batches at the server are left to the next run."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        for reply in self._replies.values():
            if not reply.done():
                reply.set_exception(StoppedError())
                reply.exception()  # seen: nobody may be waiting for it

    async def close(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.close()

    def _gather(self, key: str, payload: dict[str, Any], worst_cost: float) -> None:
        if self._ledger.journal.attempts_of(key) >= self._config.max_attempts:
            self._replies[key].set_exception(
                InputError(
                    f"a request failed in {self._config.max_attempts} batches (hash {key[:12]}); "
                    "raise openai.max_attempts to try again"
                )
            )
            return
        self._gathered[key] = (payload, worst_cost)
        if self._closing_gathered is not None:
            self._closing_gathered.cancel()
        if len(self._gathered) >= self._config.batch_requests:
            self._submit_gathered()
        else:
            loop = asyncio.get_running_loop()
            self._closing_gathered = loop.call_later(QUIET_SECONDS, self._submit_gathered)

    def _submit_gathered(self) -> None:
        gathered, self._gathered = self._gathered, {}
        if not gathered or self._stopping:
            return
        affordable = []
        try:
            for key, (payload, worst_cost) in gathered.items():
                self._ledger.reserve_now(worst_cost)
                affordable.append((key, payload, worst_cost))
        except InputError as error:
            self._give_up(list(gathered)[len(affordable) :], error)
        if not affordable:
            return
        try:
            self._follow(self._ledger.journal.begin_batch(uuid.uuid4().hex, affordable))
        except InputError as error:
            self._give_up([key for key, _, _ in affordable], error)

    def _adopt(self, batch: OpenBatch) -> None:
        """Go on with a batch that a stopped run left; its worst cost counts as spent so far."""
        loop = asyncio.get_running_loop()
        for key in batch.attempts:
            self._replies.setdefault(key, loop.create_future())
        self._follow(batch)

    def _follow(self, batch: OpenBatch) -> None:
        task = asyncio.get_running_loop().create_task(self._process(batch))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _process(self, batch: OpenBatch) -> None:
        try:
            remote = batch.remote or await self._submit(batch)
            ended = await self._wait_for_end(remote, len(batch.attempts))
            if ended.status == "failed":
                reasons = [error.message for error in (ended.errors and ended.errors.data) or []]
                self._ledger.journal.finish_batch(
                    batch, {}, dict.fromkeys(batch.attempts, "failed")
                )
                raise InputError(
                    f"the server failed batch {remote}: {'; '.join(map(str, reasons))[:300]}"
                )
            self._book(batch, await self._results(ended))
        except InputError as error:
            self._give_up(list(batch.attempts), error)

    async def _submit(self, batch: OpenBatch) -> str:
        """Bring a batch to the server, or find it there."""
        file = batch.file
        if file is None:
            file = (await self._patiently(lambda: self._upload(batch))).id
            self._ledger.journal.update_batch(batch.token, file, None)
        remote: str = await self._patiently(lambda: self._find_or_create(batch, file))
        self._ledger.journal.update_batch(batch.token, file, remote)
        return remote

    async def _upload(self, batch: OpenBatch) -> Any:
        lines = (
            {
                "custom_id": key,
                "method": "POST",
                "url": ENDPOINT,
                "body": self._ledger.journal.payload(key),
            }
            for key in batch.attempts
        )
        content = "".join(json.dumps(line) + "\n" for line in lines).encode()
        name = f"{batch.token}.jsonl"
        return await self._client.files.create(file=(name, content), purpose="batch")

    async def _find_or_create(self, batch: OpenBatch, file: str) -> str:
        async for known in self._client.batches.list(limit=100):
            if (known.metadata or {}).get(TOKEN_NAME) == batch.token:
                return known.id
            if known.created_at < batch.started - 86_400:  # newest first: older ones are not ours
                break
        created = await self._client.batches.create(
            input_file_id=file,
            endpoint=ENDPOINT,
            completion_window="24h",
            metadata={TOKEN_NAME: batch.token},
        )
        return created.id

    async def _wait_for_end(self, remote: str, count: int) -> Batch:
        with progress_bar(total=count, desc=f"batch {remote}", unit=" requests") as progress:
            while True:
                batch: Batch = await self._patiently(lambda: self._client.batches.retrieve(remote))
                if batch.request_counts is not None:
                    progress.update(batch.request_counts.completed - progress.n)
                if batch.status in _ENDED:
                    return batch
                await asyncio.sleep(self._config.batch_poll_seconds)

    async def _results(self, batch: Batch) -> dict[str, dict[str, Any]]:
        """Return each request's reply, or its FailedCallError's fields, by payload hash."""
        results: dict[str, dict[str, Any]] = {}
        for file in (batch.output_file_id, batch.error_file_id):
            if file is not None:
                content = await self._patiently(lambda name=file: self._client.files.content(name))
                for line in content.text.splitlines():
                    try:
                        result = json.loads(line)
                        results[result["custom_id"]] = result
                    except (ValueError, KeyError, TypeError):
                        continue  # what it may have answered counts as missing, and is asked again
        return results

    def _book(self, batch: OpenBatch, results: dict[str, dict[str, Any]]) -> None:
        """Write all replies down at once, hand them out, and gather the failed ones anew."""
        replies: dict[str, tuple[dict[str, Any], float, int]] = {}
        failures: dict[str, str] = {}
        for key in batch.attempts:
            try:
                envelope = _envelope(results.get(key))
            except FailedCallError as failure:
                failures[key] = failure.message
            else:
                replies[key] = (envelope, *self._ledger.cost_of(envelope))
        self._ledger.journal.finish_batch(batch, replies, failures)
        for key, (envelope, cost, _) in replies.items():
            self._ledger.settle(batch.worst_costs[key], cost)
            self._replies[key].set_result(envelope)
        for key in failures:
            self._ledger.settle(batch.worst_costs[key], 0.0)
            self._gather(key, self._ledger.journal.payload(key), batch.worst_costs[key])

    def _give_up(self, keys: list[str], error: InputError) -> None:
        for key in keys:
            if not self._replies[key].done():
                self._replies[key].set_exception(error)
                self._replies[key].exception()  # seen: nobody may be waiting for it

    async def _patiently(self, call: Any) -> Any:
        return await with_retries(
            call, self._config.max_attempts, self._config.first_backoff_seconds
        )


def _envelope(result: dict[str, Any] | None) -> dict[str, Any]:
    """Return the reply in one line of a batch's results.

    Raises:
        FailedCallError: there is none; the request goes into another batch.
    """
    response = (result or {}).get("response")
    if not isinstance(response, dict):
        reason = "missing in the results" if result is None else str(result.get("error"))[:200]
        raise FailedCallError(reason, retry=True)
    status = response.get("status_code")
    if status == 200:
        return checked_envelope(json.dumps(response.get("body")))
    failure = FailedCallError(
        f"HTTP {status}: {str(response.get('body'))[:200]}", True, status=status
    )
    if isinstance(status, int) and 400 <= status < 500 and status not in (408, 409, 429):
        return refusal_envelope(failure)
    raise failure
