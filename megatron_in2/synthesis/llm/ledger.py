"""Books every attempt of a request, in the journal and in the budget."""

import asyncio
from typing import Any

from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.journal import Journal
from megatron_in2.synthesis.llm.replies import read_reply
from megatron_in2.synthesis.llm.spending import Budget, Price


class Ledger:
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
