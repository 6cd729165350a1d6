"""The course of one batch: uploaded, created, ended; split or kept waiting where it must be."""

import asyncio
import contextlib
import json
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.progress import progress_bar
from megatron_in2.synthesis.llm.batch.api import ENDPOINT, BatchApi, Ended, is_queue_full
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.failures import TOO_LARGE, FailedCallError
from megatron_in2.synthesis.llm.journal.group_commit import GroupCommit
from megatron_in2.synthesis.llm.journal.journal import BatchRequest, Journal, OpenBatch

_QUEUE_POLLS = 4  # looks at a batch, in whose time a full queue is tried again
_LONGEST_QUEUE_WAIT = 600.0

Book = Callable[[OpenBatch, Ended], Awaitable[None]]


class BatchCourse:
    """Sees batches through; a number of them at once, the others wait.

    Args:
        config: the openai section.
        api: files and batches at the server.
        journal: where each step is written down before the next.
        commits: writes to it.
        dialect: how the server wants payloads.
        book: takes each batch with its end.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        api: BatchApi,
        journal: Journal,
        commits: GroupCommit,
        dialect: Dialect,
        book: Book,
    ) -> None:
        self._config = config
        self._api = api
        self._journal = journal
        self._commits = commits
        self._dialect = dialect
        self._book = book
        self._places = asyncio.Semaphore(config.batches_at_once)
        self._one_ended = asyncio.Event()

    async def run(self, batch: OpenBatch, adopted: bool = False) -> None:
        """See a batch, or the parts that it is split in, through to the end.

        Args:
            batch: written down in the journal.
            adopted: an earlier run began it: it may be at the server without our knowing.

        Raises:
            InputError: the server failed or refused it as a whole.
        """
        async with self._places:
            if adopted and batch.remote is None:
                remote = await self._api.find(batch.token, batch.started)
                batch = replace(batch, remote=remote)
            ended = None
            while ended is None or ended.was_queue_full:
                if ended is not None:
                    batch = await self._wait_in_queue(batch)
                submitted = await self._submit(batch)
                if submitted is None:
                    break
                if isinstance(submitted, Ended):
                    ended = submitted
                else:
                    batch = submitted
                    ended = await self._wait_for_end(batch)
        if ended is None:
            parts = await self._split(batch)
            await asyncio.gather(*map(self.run, parts))
            return
        await self._book(batch, ended)
        self._one_ended.set()
        if ended.status == "failed":
            raise InputError(f"the server failed batch {batch.remote}: {ended.reasons}")

    async def _submit(self, batch: OpenBatch) -> OpenBatch | Ended | None:
        """Bring a batch to the server, or find it there; None where it must be split first.

        A single request that is too large for a file of its own has its end here.
        """
        while batch.remote is None:
            try:
                if batch.file is None:
                    content = await asyncio.to_thread(self._content, batch)
                    if len(content) > self._config.batch_bytes and len(batch.requests) > 1:
                        return None
                    file = await self._api.upload(batch.token, content)
                    batch = await self._update(batch, file, None)
                assert batch.file is not None
                remote = await self._api.find_or_create(batch.token, batch.started, batch.file)
                batch = await self._update(batch, batch.file, remote)
            except FailedCallError as failure:
                if failure.status == TOO_LARGE:
                    return None if len(batch.requests) > 1 else _too_large(batch, failure)
                if not is_queue_full(failure):
                    await self._book(batch, Ended("failed", {}, False, failure.message))
                    raise InputError(f"the server refuses a batch: {failure.message}") from failure
                batch = await self._wait_in_queue(batch)
        return batch

    async def _wait_for_end(self, batch: OpenBatch) -> Ended:
        assert batch.remote is not None
        with progress_bar(
            total=len(batch.requests), desc=f"batch {batch.remote}", unit=" requests", leave=False
        ) as bar:
            return await self._api.wait_for_end(
                batch.remote, lambda done: bar.update(done - bar.n) and None
            )

    async def _wait_in_queue(self, batch: OpenBatch) -> OpenBatch:
        """Wait until there may be space; return the batch under a new token, not begun.

        Nothing of it was done, so its attempts stay under way: waiting uses none up.
        """
        self._one_ended.clear()
        wait = min(_QUEUE_POLLS * self._config.batch_poll_seconds, _LONGEST_QUEUE_WAIT)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._one_ended.wait(), wait)
        (renewed,) = await self._regroup(batch, [batch.requests], batch.file)
        return renewed

    async def _split(self, batch: OpenBatch) -> list[OpenBatch]:
        half = (len(batch.requests) + 1) // 2
        return await self._regroup(batch, [batch.requests[:half], batch.requests[half:]], None)

    async def _regroup(
        self, batch: OpenBatch, parts: list[tuple[BatchRequest, ...]], file: str | None
    ) -> list[OpenBatch]:
        def write() -> list[OpenBatch]:
            self._journal.close_batch(batch.token)
            return [self._journal.regroup(uuid.uuid4().hex, part, file) for part in parts]

        return await self._commits.write(write)

    async def _update(self, batch: OpenBatch, file: str | None, remote: str | None) -> OpenBatch:
        await self._commits.write(lambda: self._journal.update_batch(batch.token, file, remote))
        return replace(batch, file=file, remote=remote)

    def _content(self, batch: OpenBatch) -> bytes:
        return b"".join(
            batch_line(each.name, self._dialect.fit(self._journal.payload(each.key)))
            for each in batch.requests
        )


def _too_large(batch: OpenBatch, failure: FailedCallError) -> Ended:
    response = {"status_code": failure.status, "body": failure.message}
    lines = {batch.requests[0].name: {"response": response}}
    return Ended("completed", lines, lost=False, reasons="")


def batch_line(name: str, payload: dict[str, Any]) -> bytes:
    """Return one line of a batch's file."""
    line = {"custom_id": name, "method": "POST", "url": ENDPOINT, "body": payload}
    return json.dumps(line).encode() + b"\n"
