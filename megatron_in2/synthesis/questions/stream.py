"""Asks questions in an event loop of its own thread: composing samples holds no request up."""

import asyncio
import queue
import threading
from collections.abc import Iterator

from megatron_in2.synthesis.quality.config import QuestionConfig
from megatron_in2.synthesis.questions.asking import Accepted, Admit, Asker, Lane, LaneEnd
from megatron_in2.synthesis.questions.config import FilterConfig
from megatron_in2.synthesis.questions.writer import Decisions, QuestionWriter
from megatron_in2.synthesis.rejects import Rejects

MAX_UNTAKEN = 64  # times that questions were handed on and nobody has taken them yet


class QuestionStage:
    """Runs a writer and the filters behind a plain iterator.

    Args:
        writer: who writes; closed with the stage.
        config: the filters.
        changes: how questions and answers are changed.
    """

    def __init__(
        self, writer: QuestionWriter, config: FilterConfig, changes: QuestionConfig | None = None
    ) -> None:
        self._changes = changes
        self._writer = writer
        self._config = config
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="questions")
        self._thread.daemon = True  # a second Ctrl-C ends the process at once
        self._handed_on: queue.SimpleQueue[list[Accepted | LaneEnd] | BaseException] = (
            queue.SimpleQueue()
        )
        self._asker: Asker | None = None
        self._asking: asyncio.Task[None] | None = None

    def __enter__(self) -> "QuestionStage":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let what is under way come to its end, so that no paid answer is lost."""
        closing = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        try:
            closing.result()
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def questions(
        self,
        lanes: list[Lane],
        admit: Admit,
        rejects: Rejects,
        decisions: Decisions | None = None,
    ) -> Iterator[Accepted | LaneEnd]:
        """Yield accepted questions lane by lane, a LaneEnd behind each lane's last one.

        Args:
            lanes: the kinds, in the order in which they are handed on.
            admit: returns the tokens of a question's frame, and a reason to drop it or None.
            rejects: takes what is dropped.
            decisions: of an earlier run; None decides about every question.

        Raises:
            InputError: the writer cannot go on, or nearly all it writes is dropped.
        """
        asyncio.run_coroutine_threadsafe(self._ask(lanes, admit, rejects, decisions), self._loop)
        ends = 0
        while ends < len(lanes):
            chunk = self._handed_on.get()
            if isinstance(chunk, BaseException):
                raise chunk
            self._loop.call_soon_threadsafe(self._wake)
            for each in chunk:
                ends += isinstance(each, LaneEnd)
                yield each

    async def _ask(
        self, lanes: list[Lane], admit: Admit, rejects: Rejects, decisions: Decisions | None
    ) -> None:
        self._asker = Asker(
            self._writer,
            self._config,
            admit,
            rejects,
            self._handed_on.put,
            lambda: self._handed_on.qsize() < MAX_UNTAKEN,
            self._changes,
            decisions,
        )
        self._asking = asyncio.current_task()
        try:
            await self._asker.ask(lanes)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # raised again by who takes the questions
            self._handed_on.put(error)

    def _wake(self) -> None:
        if self._asker is not None:
            self._asker.wake()

    async def _close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
        self._writer.stop()
        if self._asker is not None:
            await self._asker.finish()
        await self._writer.close()
