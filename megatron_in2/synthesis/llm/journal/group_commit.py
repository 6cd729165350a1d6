"""Commits the journal's writes in a thread of their own, many at a time.

A commit with a sync takes milliseconds and must not block the event loop. All writes that arrive
during one commit go into the next one.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from megatron_in2.synthesis.llm.journal.journal import Journal

Result = TypeVar("Result")
_Write = tuple[Callable[[], Any], bool, asyncio.Future[Any]]


class GroupCommit:
    """Runs writes to a journal; each is committed when it returns.

    Args:
        journal: closed with this.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._thread = ThreadPoolExecutor(1, "journal")
        self._waiting: list[_Write] = []
        self._working: asyncio.Task[None] | None = None

    async def write(self, write: Callable[[], Result], synced: bool = False) -> Result:
        """Run ``write`` and commit it, with others.

        Args:
            write: calls the journal.
            synced: sync to the disk, so that it survives a power cut.

        Raises:
            InputError: the journal cannot be written; nothing of the group is.
        """
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((write, synced, done))
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())
        result: Result = await asyncio.shield(done)  # who stops waiting does not undo it
        return result

    async def close(self) -> None:
        """Commit what waits, and close the journal."""
        while self._working is not None:
            await asyncio.shield(self._working)
        self._thread.shutdown()
        self._journal.close()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                group, self._waiting = self._waiting, []
                try:
                    results = await loop.run_in_executor(self._thread, self._commit, group)
                except Exception as error:
                    for _, _, done in group:
                        done.set_exception(error)
                        done.exception()  # seen: nobody may be waiting for it
                else:
                    for (_, _, done), result in zip(group, results, strict=True):
                        done.set_result(result)
        finally:
            self._working = None

    def _commit(self, group: list[_Write]) -> list[Any]:
        with self._journal.transaction(synced=any(synced for _, synced, _ in group)):
            return [write() for write, _, _ in group]
