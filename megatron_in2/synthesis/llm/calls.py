"""Answers a request from the journal, or has it sent once, within the budget."""

import asyncio
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.journal import Journal, payload_hash
from megatron_in2.synthesis.llm.replies import Reply, read_reply
from megatron_in2.synthesis.llm.transport import Transport

MAX_REFUSALS_IN_A_ROW = 50


class JournalledCalls:
    """Answers the writer's requests: from the journal where it can, else through the transport.

    Args:
        journal: holds what was answered before.
        transport: has the rest answered.
    """

    def __init__(self, journal: Journal, transport: Transport) -> None:
        self._journal = journal
        self._transport = transport
        self._under_way: dict[str, asyncio.Task[dict[str, Any]]] = {}
        self._refusals = 0

    async def ask(self, payload: dict[str, Any], prompt_tokens: int) -> Reply:
        """Return the reply to a payload; equal payloads are paid for once.

        Raises:
            InputError: the server cannot be reached, refuses the run, or the budget is used up.
        """
        key = payload_hash(payload)
        envelope = self._journal.answer(key)
        if envelope is None:
            if key not in self._under_way:
                sending = self._transport.send(key, payload, prompt_tokens)
                self._under_way[key] = asyncio.ensure_future(sending)
            try:
                envelope = await self._under_way[key]
            finally:
                self._under_way.pop(key, None)
            self._watch_refusals(envelope)
        return read_reply(envelope)

    def _watch_refusals(self, envelope: dict[str, Any]) -> None:
        refused = "refused" in envelope and not read_reply(envelope).form_refused
        self._refusals = self._refusals + 1 if refused else 0
        if self._refusals == MAX_REFUSALS_IN_A_ROW:
            raise InputError(
                f"the server refused {self._refusals} requests in a row, lastly: "
                f"{envelope['refused']}; check the openai section"
            )
