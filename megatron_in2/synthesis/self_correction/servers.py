"""Asks models behind the OpenAI protocol: journalled, limited and paid for once."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.calls import JournalledCalls
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.failures import Redactor
from megatron_in2.synthesis.llm.journal.file import request_key
from megatron_in2.synthesis.llm.journal.journal import Journal, JournalSummary
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.online.endpoint import ChatEndpoint
from megatron_in2.synthesis.llm.online.transport import OnlineTransport
from megatron_in2.synthesis.llm.spending import load_price
from megatron_in2.synthesis.llm.transport import Request, StoppedError
from megatron_in2.synthesis.llm.writer import api_key
from megatron_in2.tokenizers.base import Tokenizer

Item = TypeVar("Item")
Messages = list[dict[str, str]]


class ModelServers:
    """The servers of one run, with one journal and one budget; a context manager.

    Args:
        journal_path: keeps every request and its answer.
        max_cost: US dollars that all runs with this journal may spend; None is no limit.
        resembled: text that many requests repeat.

    Raises:
        InputError: a journal in use.
    """

    def __init__(self, journal_path: Path, max_cost: float | None, resembled: str) -> None:
        journal_path.parent.mkdir(parents=True, exist_ok=True)
        self._ledger = Ledger(Journal(journal_path, resembled), max_cost)
        self._servers: list[ModelServer] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers")
        self._thread.daemon = True  # a second Ctrl-C ends the process at once

    def __enter__(self) -> "ModelServers":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is under way come to its end, so that no answer is lost."""
        try:
            asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def open(self, config: OpenAIConfig, tokenizer: Tokenizer) -> "ModelServer":
        """Return a server that can be asked.

        Raises:
            InputError: no key, or no price.
        """
        key = api_key(config)
        price = load_price(config.model, config.prices, False, config.base_url)
        redact = Redactor(key)
        endpoint = ChatEndpoint(config.base_url, key, config.timeout_seconds, redact)
        journal = self._ledger.journal
        dialect = Dialect(journal, self._ledger.commits, f"{config.base_url} {config.model}")
        transport = OnlineTransport(config, endpoint, self._ledger, price, dialect)
        calls = JournalledCalls(journal, transport, price)
        self._servers.append(ModelServer(config, calls, tokenizer, self._loop))
        return self._servers[-1]

    def summary(self) -> JournalSummary:
        """Return what all runs with this journal have asked and spent."""
        return asyncio.run_coroutine_threadsafe(self._summary(), self._loop).result()

    async def _summary(self) -> JournalSummary:
        return self._ledger.journal.summary()

    async def _close(self) -> None:
        for server in self._servers:
            server.stop()
        for server in self._servers:
            await server.close()
        await self._ledger.close()


class ModelServer:
    """One model of one server.

    Args:
        config: the server and its limits.
        calls: has requests answered.
        tokenizer: counts prompt tokens for limits and costs.
        loop: where the requests are under way.
    """

    def __init__(
        self,
        config: OpenAIConfig,
        calls: JournalledCalls,
        tokenizer: Tokenizer,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.config = config
        self._calls = calls
        self._tokenizer = tokenizer
        self._loop = loop
        self._pending: deque[Future[Reply]] = deque()

    def request(self, messages: Messages, max_tokens: int, **settings: Any) -> Request:
        """Return a request for the answer to messages."""
        payload = {
            "model": self.config.model,
            "messages": messages,
            self.config.limit_parameter: max_tokens,
            **settings,
            **self.config.extra_body,
        }
        count = partial(self._count, messages)
        return Request(request_key(payload), payload, count, max_tokens)

    def replies(
        self, items: Iterable[tuple[Item, Sequence[Request]]]
    ) -> Iterator[tuple[Item, list[Reply]]]:
        """Yield each item with the replies to its requests, in order, many under way at a time.

        Raises:
            InputError: the server refuses the run, or the money is used up.
        """
        begun: deque[tuple[Item, list[Future[Reply]]]] = deque()
        for item, requests in items:
            begun.append((item, [self._begin(request) for request in requests]))
            # Items whose replies are there go on at once: those without any do not pile up.
            while begun and (
                len(self._pending) >= self._calls.window
                or all(future.done() for future in begun[0][1])
            ):
                yield self._ended(*begun.popleft())
        while begun:
            yield self._ended(*begun.popleft())

    def stop(self) -> None:
        """Send nothing new."""
        self._calls.stop()

    async def close(self) -> None:
        """Wait for what is under way, and close the connections."""
        for future in list(self._pending):
            with suppress(StoppedError, InputError, asyncio.CancelledError):
                await asyncio.wrap_future(future)
        await self._calls.close()

    def _begin(self, request: Request) -> Future[Reply]:
        future = asyncio.run_coroutine_threadsafe(self._calls.ask(request), self._loop)
        self._pending.append(future)
        return future

    def _ended(self, item: Item, futures: list[Future[Reply]]) -> tuple[Item, list[Reply]]:
        replies = [future.result() for future in futures]
        for _ in futures:
            self._pending.popleft()
        return item, replies

    def _count(self, messages: Messages) -> int:
        return sum(len(self._tokenizer.encode(each["content"])) for each in messages)
