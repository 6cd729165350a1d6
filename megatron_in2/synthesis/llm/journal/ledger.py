"""Books every attempt of a request, in the journal and in the budget."""

import asyncio
from typing import Any

from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.journal.group_commit import GroupCommit
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.spending import Budget


class Ledger:
    """Books every attempt: in the journal, and in the budget.

    Args:
        journal: closed with this.
        max_cost: US dollars that all runs with this journal may spend; None is no limit.
    """

    def __init__(self, journal: Journal, max_cost: float | None) -> None:
        summary = journal.summary()
        self.journal = journal
        self.commits = GroupCommit(journal)
        self.spent = summary.cost  # US dollars that are known to be billed, over all runs
        self._settled = asyncio.Event()
        self._budget = Budget(summary.cost + summary.possible_cost, max_cost)

    async def close(self) -> None:
        await self.commits.close()

    async def reserve(self, worst_cost: float) -> None:
        """Reserve a request's money; where it may not suffice, wait for others to cost less.

        Raises:
            InputError: nothing is under way, and it still does not suffice.
        """
        while not self._budget.allows(worst_cost) and self._budget.is_reserved:
            self._settled.clear()
            await self._settled.wait()
        self._budget.reserve(worst_cost)

    def reserve_now(self, worst_cost: float) -> None:
        """Reserve a request's money, or raise InputError."""
        self._budget.reserve(worst_cost)

    async def begin(self, key: bytes, payload: dict[str, Any], worst_cost: float) -> int:
        """Write down an attempt whose money is reserved; return its number."""
        return await self.commits.write(lambda: self.journal.begin(key, payload, worst_cost))

    async def finish(
        self, attempt: int, key: bytes, body: bytes, reply: Reply, worst_cost: float
    ) -> None:
        """Write a reply down and book its cost."""
        tokens = reply.usage.completion_tokens if reply.usage is not None else 0
        await self.commits.write(
            lambda: self.journal.finish(attempt, key, body, reply.cost, tokens), synced=True
        )
        self.settle(worst_cost, reply.cost)

    async def fail(self, attempt: int, failure: FailedCallError, worst_cost: float) -> None:
        """Write a failure down; what may have been billed counts as spent."""
        billed = failure.perhaps_billed
        await self.commits.write(lambda: self.journal.fail(attempt, failure.message, billed))
        self.settle_lost(worst_cost, billed)

    def settle(self, worst_cost: float, cost: float) -> None:
        """Book the cost of a request that is written down."""
        self.spent += cost
        self._budget.settle(worst_cost, cost)
        self._settled.set()

    def settle_lost(self, worst_cost: float, perhaps_billed: bool) -> None:
        """Book a failure that is written down."""
        self._budget.settle(worst_cost, worst_cost if perhaps_billed else 0.0)
        self._settled.set()
