"""Answers a request from the journal, or has it sent once."""

import asyncio

from megatron_in2.synthesis.llm.envelopes import Reply, read_reply
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.spending import Price
from megatron_in2.synthesis.llm.transport import Request, Transport


class JournalledCalls:
    """Answers requests to one model: from the journal where it can, else through the transport.

    Args:
        journal: holds what was answered before.
        transport: has the rest answered.
        price: what an answer cost.
    """

    def __init__(self, journal: Journal, transport: Transport, price: Price) -> None:
        self.window = transport.window
        self._journal = journal
        self._transport = transport
        self._price = price
        self._under_way: dict[bytes, asyncio.Task[Reply]] = {}

    async def ask(self, request: Request) -> Reply:
        """Return the reply to a request; equal requests are paid for once.

        Raises:
            InputError: the server cannot be reached, refuses the run, or the budget is used up.
            StoppedError: the run is ending.
        """
        for key in (request.key, *request.earlier_keys):
            if (reply := self._from_journal(key, request)) is not None:
                return reply
            if (expected := self._transport.expected(key)) is not None:
                return await expected
        if request.key not in self._under_way:
            task = asyncio.ensure_future(self._transport.send(request))
            self._under_way[request.key] = task
            task.add_done_callback(lambda _: self._under_way.pop(request.key))
        return await asyncio.shield(self._under_way[request.key])

    def stop(self) -> None:
        """Send nothing new."""
        self._transport.stop()

    async def close(self) -> None:
        """Close connections."""
        await self._transport.close()

    def _from_journal(self, key: bytes, request: Request) -> Reply | None:
        envelope = self._journal.answer(key)
        if envelope is None:
            return None
        reply = read_reply(envelope)
        if reply.usage is None:
            tokens = request.count_tokens()
            cost = self._price.worst_cost(tokens, request.max_answer_tokens)
        else:
            cost = self._price.cost(reply.usage)
        return Reply(reply.text, reply.problem, reply.usage, cost)
