"""Draws attempts from an endpoint: every request is journalled, limited and paid for once."""

import asyncio
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.calls import JournalledCalls
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.failures import Redactor
from megatron_in2.synthesis.llm.journal.file import request_key
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.online.endpoint import ChatEndpoint
from megatron_in2.synthesis.llm.online.transport import OnlineTransport
from megatron_in2.synthesis.llm.spending import load_price
from megatron_in2.synthesis.llm.transport import Request, StoppedError
from megatron_in2.synthesis.llm.writer import api_key
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.tasks import Drawn, Task
from megatron_in2.templates.base import Wording
from megatron_in2.tokenizers.base import Tokenizer

_CUT_OFF = "reply cut off at max_answer_tokens"  # as read_reply says it


class EndpointAttempts:
    """Draws attempts through the OpenAI protocol; a context manager.

    Args:
        server: the endpoint and its limits.
        config: how attempts are drawn; each try has a seed of its own.
        tokenizer: counts prompt tokens for limits and costs.
        wording: how a question and its context become a message.
        journal_path: keeps every request and its answer.
        max_cost: US dollars that all runs with this journal may spend; None is no limit.

    Raises:
        InputError: no key, no price, or a journal in use.
    """

    def __init__(
        self,
        server: OpenAIConfig,
        config: SelfCorrectionConfig,
        tokenizer: Tokenizer,
        wording: Wording,
        journal_path: Path,
        max_cost: float | None,
    ) -> None:
        self.identity = {"endpoint": server.base_url, "model": server.model}
        self._server = server
        self._config = config
        self._tokenizer = tokenizer
        self._wording = wording
        self._stores: dict[Path, SegmentStore] = {}
        self._pending: deque[Future[Reply]] = deque()
        key = api_key(server)
        price = load_price(server.model, server.prices, False, server.base_url)
        redact = Redactor(key)
        journal_path.parent.mkdir(parents=True, exist_ok=True)
        journal = Journal(journal_path, wording.with_context)
        self._ledger = Ledger(journal, max_cost)
        endpoint = ChatEndpoint(server.base_url, key, server.timeout_seconds, redact)
        dialect = Dialect(journal, self._ledger.commits)
        transport = OnlineTransport(server, endpoint, self._ledger, price, dialect)
        self._calls = JournalledCalls(journal, transport, price)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="attempts")
        self._thread.daemon = True  # a second Ctrl-C ends the process at once

    def __enter__(self) -> "EndpointAttempts":
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

    def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
        """Yield what was drawn for each task, in order, many requests under way at a time.

        Raises:
            InputError: the server refuses the run, or the money is used up.
        """
        under_way: deque[Drawn | list[Future[Reply]]] = deque()
        for task in tasks:
            under_way.append(self._begin(task))
            while len(self._pending) >= self._calls.window:
                yield self._next(under_way.popleft())
        while under_way:
            yield self._next(under_way.popleft())

    def _begin(self, task: Task) -> Drawn | list[Future[Reply]]:
        if task.problem is not None:
            return Drawn(problem=task.problem)
        if "parts" in task.record:
            return Drawn(problem="a sample of parts has no messages for an endpoint")
        messages = self._messages(task)
        futures = [
            asyncio.run_coroutine_threadsafe(
                self._calls.ask(self._request(messages, number)), self._loop
            )
            for number in range(self._config.tries)
        ]
        self._pending += futures
        return futures

    def _next(self, begun: Drawn | list[Future[Reply]]) -> Drawn:
        if isinstance(begun, Drawn):
            return begun
        replies = [future.result() for future in begun]
        for _ in begun:
            self._pending.popleft()
        texts = tuple(reply.text.strip() for reply in replies if reply.problem is None)
        problems = [reply.problem for reply in replies if reply.problem is not None]
        cut_off = problems.count(_CUT_OFF)
        others = [problem for problem in problems if problem != _CUT_OFF]
        return Drawn(texts, cut_off, others[0] if others and not texts else None)

    def _request(self, messages: list[dict[str, str]], number: int) -> Request:
        config, server = self._config, self._server
        payload: dict[str, Any] = {
            "model": server.model,
            "messages": messages,
            server.limit_parameter: config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": config.seed + number,
            **server.extra_body,
        }
        count = partial(self._count, messages)
        return Request(request_key(payload), payload, count, config.max_new_tokens)

    def _count(self, messages: list[dict[str, str]]) -> int:
        return sum(len(self._tokenizer.encode(each["content"])) for each in messages)

    def _messages(self, task: Task) -> list[dict[str, str]]:
        """Return what the model is asked: all messages before the last answer."""
        record = task.record
        if "messages" in record:
            return [
                {"role": each["role"], "content": each["content"]}
                for each in record["messages"][:-1]
            ]
        context = record.get("context")
        if "segments" in record:
            folder = Path(task.where.rpartition(":")[0]).parent
            store = self._store(folder / record["store"])
            context = "\n".join(map(store.text, record["segments"]))
        content = self._wording.message(record["question"], context)
        return [{"role": "user", "content": content}]

    def _store(self, path: Path) -> SegmentStore:
        if path not in self._stores:
            self._stores[path] = SegmentStore(path)
        return self._stores[path]

    async def _close(self) -> None:
        self._calls.stop()
        for future in list(self._pending):
            with suppress(StoppedError, InputError, asyncio.CancelledError):
                await asyncio.wrap_future(future)
        await self._calls.close()
        await self._ledger.close()
