"""Asks questions about evidence: many at a time, handed on in the evidence's order.

Never more are under way than samples are still wanted, so no answer is paid for in vain; and
what is handed on depends on the answers alone, not on the order in which they arrive.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from megatron_in2.records import id_hash
from megatron_in2.synthesis.config import FilterConfig
from megatron_in2.synthesis.filters import first_paid_problem, first_problem, question_key
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.writer import Draft, Evidence, QuestionWriter


@dataclass
class Quota:
    """Samples wanted and made; who takes an accepted question counts it before the next one."""

    wanted: int
    made: int = 0

    @property
    def left(self) -> int:
        """Samples still to make."""
        return self.wanted - self.made


@dataclass(frozen=True)
class _Written:
    evidence: Evidence
    draft: Draft
    reason: str | None


class QuestionStage:
    """Runs a writer and the filters in an event loop of its own, behind a plain iterator.

    Args:
        writer: who writes; closed with the stage.
        config: the filters.
    """

    def __init__(self, writer: QuestionWriter, config: FilterConfig) -> None:
        self._writer = writer
        self._config = config
        self._runner = asyncio.Runner()
        self._pending: deque[asyncio.Task[_Written]] = deque()
        self._accepted = 0
        self._asked: set[int] = set()  # hashes of questions: 8 bytes each say enough

    def __enter__(self) -> "QuestionStage":
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is under way come to its end, so that no paid answer is lost."""
        with self._runner:
            self._runner.run(self._drain())

    def accepted(
        self, candidates: Iterator[Evidence], quota: Quota, rejects: Rejects
    ) -> Iterator[tuple[Evidence, Draft]]:
        """Yield evidence with its question until ``quota`` is filled or no candidate is left."""
        while quota.left:
            batch = self._runner.run(self._next(candidates, quota))
            if not batch:
                return
            for written in batch:
                reason = written.reason or self._repetition(written)
                if reason is None:
                    yield written.evidence, written.draft
                else:
                    rejects.drop(
                        written.evidence.id,
                        f"{written.evidence.kind}: {reason}",
                        question=written.draft.question,
                        answer=written.draft.answer,
                    )

    def show_cost(self, progress: Any, wanted: int) -> None:
        """Show on a bar what was spent and what ``wanted`` samples will cost, if anything."""
        self._accepted += 1
        if (cost := self._writer.cost()) is not None:
            whole = cost / self._accepted * wanted
            progress.set_postfix_str(f"${cost:.2f} so far, ~${whole:.2f} at the end", False)

    async def _next(self, candidates: Iterator[Evidence], quota: Quota) -> list[_Written]:
        """Fill the window, wait for its head, and take all that is ready behind the head."""
        window = min(self._writer.window, quota.left)
        while len(self._pending) < window:
            evidence = next(candidates, None)
            if evidence is None:
                break
            self._pending.append(asyncio.create_task(self._write(evidence)))
        if not self._pending:
            return []
        ready = [await self._pending[0]]
        self._pending.popleft()
        while self._pending and self._pending[0].done():
            ready.append(await self._pending.popleft())
        return ready

    async def _write(self, evidence: Evidence) -> _Written:
        draft = await self._writer.write(evidence)
        reason = first_problem(draft, evidence, self._config)
        if reason is None:
            reason = await first_paid_problem(draft, evidence, self._config, self._writer)
        return _Written(evidence, draft, reason)

    def _repetition(self, written: _Written) -> str | None:
        if not self._config.duplicate_questions:
            return None
        key = id_hash(question_key(written.draft.question))
        if key in self._asked:
            return "question asked before"
        self._asked.add(key)
        return None

    async def _drain(self) -> None:
        self._writer.stop()
        await asyncio.gather(*self._pending, return_exceptions=True)
        await self._writer.close()
