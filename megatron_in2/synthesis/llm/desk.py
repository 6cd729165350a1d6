"""The desk: answers a request from the journal, or has it sent once, within the budget."""

import asyncio
from typing import Any, Protocol

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.journal import Journal, payload_hash
from megatron_in2.synthesis.llm.replies import Reply, read_reply
from megatron_in2.synthesis.llm.spending import Budget, Price

MAX_REFUSALS_IN_A_ROW = 50


class Transport(Protocol):
    """Has requests answered; each reply stands in the journal before it is returned."""

    window: int

    async def send(self, key: str, payload: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
        """Return the reply to a request that has no answer yet."""

    def stop(self) -> None:
        """Send nothing new."""

    async def close(self) -> None:
        """Close connections."""


class StoppedError(Exception):
    """A request was not sent since the run is ending."""


class Till:
    """Books every attempt: in the journal, and in the budget."""

    def __init__(self, journal: Journal, price: Price, max_cost: float | None) -> None:
        summary = journal.summary()
        self.journal = journal
        self.spent = summary.cost  # US dollars that are known to be billed, over all runs
        self._settled = asyncio.Event()
        self._budget = Budget(summary.cost + summary.possible_cost, max_cost)
        self._price = price

    def worst_cost(self, payload: dict[str, Any], prompt_tokens: int) -> float:
        """Return the most that a request costs: its prompt and the longest reply."""
        return self._price.cost(prompt_tokens, int(payload["max_tokens"]))

    def begin(self, key: str, payload: dict[str, Any], worst_cost: float) -> int:
        """Write down an attempt whose money is reserved."""
        return self.journal.begin(key, payload, worst_cost)

    async def reserve(self, worst_cost: float) -> None:
        """Reserve a request's money; where it may not suffice, wait for others to cost less."""
        while not self._budget.allows(worst_cost) and self._budget.is_reserved:
            self._settled.clear()
            await self._settled.wait()
        self._budget.reserve(worst_cost)

    def reserve_now(self, worst_cost: float) -> None:
        """Reserve a request's money, or raise InputError."""
        self._budget.reserve(worst_cost)

    def cost_of(self, envelope: dict[str, Any]) -> tuple[float, int]:
        """Return a reply's cost and its completion tokens."""
        reply = read_reply(envelope)
        cost = self._price.cost(reply.prompt_tokens, reply.completion_tokens)
        return cost, reply.completion_tokens

    def finish(self, attempt: int, key: str, envelope: dict[str, Any], worst_cost: float) -> None:
        """Write a reply down and book its cost."""
        cost, tokens = self.cost_of(envelope)
        self.journal.finish(attempt, key, envelope, cost, tokens)
        self.settle(worst_cost, cost)

    def fail(self, attempt: int, failure: FailedCallError, worst_cost: float) -> None:
        """Write a failure down; what may have been billed counts as spent."""
        self.journal.fail(attempt, failure.message, failure.perhaps_billed)
        self._budget.settle(worst_cost, worst_cost if failure.perhaps_billed else 0.0)
        self._settled.set()

    def settle(self, worst_cost: float, cost: float) -> None:
        """Book the cost of a request that is written down."""
        self.spent += cost
        self._budget.settle(worst_cost, cost)
        self._settled.set()


class Desk:
    """Where the writer hands in its requests.

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
