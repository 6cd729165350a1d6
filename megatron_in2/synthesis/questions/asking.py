"""Asks the questions of several kinds at once and hands them on in the evidence's order.

Never more are under way than samples are still wanted, so no answer is paid for in vain; and what
is handed on depends on the answers alone, not on the order in which they arrive: a slow reply
holds back those behind it, but no new request.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from megatron_in2.progress import progress_bar
from megatron_in2.records import id_hash
from megatron_in2.synthesis.quality.config import QuestionConfig
from megatron_in2.synthesis.questions import eager
from megatron_in2.synthesis.questions.config import FilterConfig
from megatron_in2.synthesis.questions.filters import first_paid_problem, first_problem, question_key
from megatron_in2.synthesis.questions.reject_watch import RejectWatch
from megatron_in2.synthesis.questions.restate import restated
from megatron_in2.synthesis.questions.rewording import is_reworded, reworded
from megatron_in2.synthesis.questions.writer import (
    Decisions,
    Draft,
    Evidence,
    Outcome,
    QuestionWriter,
    Unusable,
)
from megatron_in2.synthesis.rejects import Rejects

MAX_AHEAD = 65_536  # answers that wait for one before them, at 1 KB each
SHOW_SECONDS = 0.1  # between two looks at the cost
SLICE_SECONDS = 0.02  # without a wait; then replies from the network get their turn


@dataclass(frozen=True)
class Lane:
    """The questions of one kind.

    Args:
        kind: the kind.
        candidates: evidence in order; what cannot be asked about is among it, to be listed.
        wanted: questions to accept.
        most_asked: questions to ask, whatever becomes of them; None is no limit.
    """

    kind: str
    candidates: Iterator[Evidence | Unusable]
    wanted: int
    most_asked: int | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """A question that passed all checks, with its evidence (without the texts).

    ``frame_tokens`` is the length of the encoded sample outside its context.
    """

    evidence: Evidence
    draft: Draft
    frame_tokens: int


@dataclass(frozen=True, slots=True)
class LaneEnd:
    """Follows a lane's last question."""

    kind: str
    asked: int


HandOn = Callable[[list[Accepted | LaneEnd]], None]
Admit = Callable[[Evidence, Draft], tuple[int, str | None]]


@dataclass(slots=True)
class _Place:
    """A place in a lane; ``outcome`` is None until it is known."""

    evidence: Evidence | Unusable
    outcome: Outcome | None = None


@dataclass
class _LaneState:
    lane: Lane
    places: deque[_Place] = field(default_factory=deque)
    taken: int = 0  # candidates
    asked: int = 0
    dropped: int = 0
    exhausted: bool = False

    def may_ask(self) -> bool:
        most = self.lane.most_asked
        within = most is None or self.asked < most
        return not self.exhausted and within and self.asked - self.dropped < self.lane.wanted

    def is_done(self) -> bool:
        return not self.places and not self.may_ask()


class Asker:
    """Asks; lives in one event loop.

    Args:
        writer: who writes.
        config: the filters.
        admit: returns the tokens of a question's frame, and a reason to drop it or None.
        rejects: takes what is dropped.
        hand_on: takes what is accepted, in order.
        has_space: whether more may be handed on just now; ``wake`` says when to look again.
        changes: how questions and answers are changed.
        decisions: of an earlier run; None decides about every question.
    """

    def __init__(
        self,
        writer: QuestionWriter,
        config: FilterConfig,
        admit: Admit,
        rejects: Rejects,
        hand_on: HandOn,
        has_space: Callable[[], bool],
        changes: QuestionConfig | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self._decisions = decisions
        self._writer = writer
        self._config = config if writer.gives_quotes else replace(config, citations=False)
        self._changes = changes or QuestionConfig()
        self._admit = admit
        self._rejects = rejects
        self._hand_on = hand_on
        self._has_space = has_space
        self._watch = RejectWatch(config.stop_share if writer.is_paid else 1.0)
        self._arrived: set[int] = set()  # hashes of questions: 8 bytes each say enough
        self._accepted: set[int] = set()
        self._under_way: set[asyncio.Future[Outcome]] = set()
        self._waiting = 0  # places taken in all lanes
        self._error: BaseException | None = None
        self._cost_shown = 0.0
        self._changed = asyncio.Event()

    def wake(self) -> None:
        """Look again at what may be asked and handed on."""
        self._changed.set()

    async def ask(self, lanes: list[Lane]) -> None:
        """Ask until all lanes have what they want, or have no more candidates.

        Raises:
            InputError: the writer cannot go on, or nearly all it writes is dropped.
        """
        states = deque(map(_LaneState, lanes))
        with progress_bar(
            total=sum(lane.wanted for lane in lanes), desc="questions", unit=" accepted"
        ) as self._progress:
            while states:
                self._changed.clear()
                busy = self._ask_more(states)
                if self._error is not None:
                    raise self._error
                busy |= self._hand_on_ready(
                    states
                )  # a dropped duplicate makes place for another question
                if busy or self._changed.is_set():
                    await asyncio.sleep(0)
                elif states:
                    await self._changed.wait()

    async def finish(self) -> None:
        """Wait for what is under way; what it brings is in the journal."""
        if self._under_way:
            print(f"waiting for {len(self._under_way)} questions under way", file=sys.stderr)
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def _ask_more(self, states: deque[_LaneState]) -> bool:
        """Ask as much as may be; return whether there is more to ask at once."""
        end = time.monotonic() + SLICE_SECONDS
        for state in states:
            while state.may_ask() and self._may_ask():
                candidate = next(state.lane.candidates, None)
                if candidate is None:
                    state.exhausted = True
                    break
                place = _Place(candidate)
                state.places.append(place)
                state.taken += 1
                self._waiting += 1
                if isinstance(candidate, Evidence):
                    state.asked += 1
                    self._start(state, place, candidate, state.taken - 1)
                if self._error is not None or time.monotonic() > end:
                    return True
        return False

    def _may_ask(self) -> bool:
        free = len(self._under_way) < self._writer.window
        return free and self._waiting < MAX_AHEAD and self._has_space()

    def _start(self, state: _LaneState, place: _Place, evidence: Evidence, number: int) -> None:
        answer = eager.start(self._outcome(evidence, number))
        if answer.done():
            self._settle(state, place, answer)
            return
        self._under_way.add(answer)
        answer.add_done_callback(lambda done: self._settle(state, place, done))

    def _settle(self, state: _LaneState, place: _Place, answer: asyncio.Future[Outcome]) -> None:
        self._under_way.discard(answer)
        self._changed.set()
        if answer.cancelled() or (error := answer.exception()) is not None:
            self._error = self._error or error or asyncio.CancelledError()
            return
        outcome = place.outcome = answer.result()
        assert isinstance(place.evidence, Evidence)
        place.evidence = place.evidence.without_texts()  # read by now
        reason = outcome.reason
        if reason is not None:
            state.dropped += 1
        else:
            self._progress.update()
            if self._config.duplicate_questions and self._came_before(outcome.key, self._arrived):
                reason = "question asked before"
        self._show_cost()
        try:
            self._watch.note(reason)
        except Exception as error:
            self._error = self._error or error

    async def _outcome(self, evidence: Evidence, number: int) -> Outcome:
        if self._decisions is None:
            return await self._question(evidence)
        outcome = self._decisions.recall(evidence, number)
        if outcome is None:
            mark = self._decisions.mark()
            outcome = await self._question(evidence)
            await self._decisions.keep(evidence, number, outcome, mark)
        return outcome

    async def _question(self, evidence: Evidence) -> Outcome:
        draft = await self._writer.write(evidence)
        reason, frame_tokens = first_problem(draft, evidence, self._config), 0
        changes = self._changes
        if reason is None and changes.low_overlap and is_reworded(evidence.id, changes.low_overlap):
            draft, reason = await reworded(
                draft, evidence, changes.low_overlap_tries, self._config, self._writer
            )
        key, final = id_hash(question_key(draft.question)), draft
        if reason is None:
            if changes.restate_evidence:
                final = restated(draft, evidence.texts)
            frame_tokens, reason = self._admit(evidence, final)
        if reason is None:
            reason = await first_paid_problem(draft, evidence, self._config, self._writer)
        return Outcome(final, reason, key, frame_tokens)

    def _hand_on_ready(self, states: deque[_LaneState]) -> bool:
        """Hand on what is settled behind nothing unsettled; return whether there was any."""
        ready: list[Accepted | LaneEnd] = []
        waiting = self._waiting
        while states:
            state = states[0]
            while state.places:
                place = state.places[0]
                if isinstance(place.evidence, Evidence) and place.outcome is None:
                    break
                state.places.popleft()
                self._waiting -= 1
                if (accepted := self._resolved(state, place)) is not None:
                    ready.append(accepted)
            if not state.is_done():
                break
            ready.append(LaneEnd(state.lane.kind, state.asked))
            states.popleft()
        if ready:
            self._hand_on(ready)
        return bool(ready) or self._waiting < waiting

    def _resolved(self, state: _LaneState, place: _Place) -> Accepted | None:
        """Return an accepted question, or list what is dropped."""
        evidence, outcome = place.evidence, place.outcome
        if isinstance(evidence, Unusable):
            self._rejects.drop(evidence.id, f"{evidence.kind}: {evidence.reason}")
            return None
        assert outcome is not None
        draft, reason = outcome.draft, outcome.reason
        if (
            reason is None
            and self._config.duplicate_questions
            and self._came_before(outcome.key, self._accepted)
        ):
            reason = "question asked before"
            state.dropped += 1
            self._progress.update(-1)
        if reason is None:
            return Accepted(evidence, draft, outcome.frame_tokens)
        detail = {"question": draft.question, "answer": draft.answer}
        if draft.reply:
            detail = {"reply": draft.reply}
        self._rejects.drop(evidence.id, f"{evidence.kind}: {reason}", **detail)
        return None

    @staticmethod
    def _came_before(key: int, before: set[int]) -> bool:
        if key in before:
            return True
        before.add(key)
        return False

    def _shows_cost(self) -> bool:
        """Whether the cost is worth formatting: not for each of millions of known answers."""
        now = time.monotonic()
        is_due = now - self._cost_shown > SHOW_SECONDS
        if is_due:
            self._cost_shown = now
        return is_due

    def _show_cost(self) -> None:
        cost = self._writer.cost()
        if cost is not None and self._progress.n and self._shows_cost():
            whole = cost / self._progress.n * self._progress.total
            self._progress.set_postfix_str(f"${cost:.2f} so far, ~${whole:.2f} at the end", False)
