"""Question writers: what turns evidence into a question and its answer."""

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one question is asked about.

    Args:
        id: names the sample: kind, document and, for a segment, its place; the same in all runs.
        kind: fine_grained | integration | multi_document.
        segments: in the store, in the document's order.
        texts: what the writer reads: one text, or all pieces.
    """

    id: str
    kind: str
    segments: tuple[int, ...]
    texts: tuple[str, ...]

    @property
    def has_pieces(self) -> bool:
        """Whether a question must need two or more of the texts."""
        return self.kind != "fine_grained"

    def without_texts(self) -> "Evidence":
        """Return what is needed once the texts are read."""
        return Evidence(self.id, self.kind, self.segments, ())


@dataclass(frozen=True, slots=True)
class Unusable:
    """Evidence that no question can be asked about, and why."""

    id: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class Citation:
    """A quote from one of the evidence's texts, by its index from 0."""

    piece: int
    quote: str


@dataclass(frozen=True, slots=True)
class Draft:
    """What a writer made.

    Args:
        question: the question.
        answer: its answer.
        citations: quotes that it rests on.
        problem: why there is no question, if there is none.
        reply: the beginning of the model's reply, for those who read the rejects.
    """

    question: str = ""
    answer: str = ""
    citations: tuple[Citation, ...] = ()
    problem: str | None = None
    reply: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one question: ``reason`` to drop it, or None.

    ``key`` is the hash that it shares with questions that differ in case and punctuation only.
    """

    draft: Draft
    reason: str | None
    key: int
    frame_tokens: int = 0


class Decisions(Protocol):
    """Outcomes of an earlier run under the same conditions; ``place`` is that in a kind's order."""

    def mark(self) -> int:
        """Return what :meth:`keep` compares with, before a question is begun."""

    def recall(self, evidence: Evidence, place: int) -> Outcome | None:
        """Return what became of a question, or None."""

    async def keep(self, evidence: Evidence, place: int, outcome: Outcome, mark: int) -> None:
        """Keep what became of a question, if the next run would come to the same."""


class QuestionWriter(Protocol):
    """Writes questions and checks them; all calls of one run share one event loop."""

    window: int  # how many pieces of evidence are worth working on at a time
    is_paid: bool  # whether a reply that is dropped is money lost
    gives_quotes: bool  # whether integration questions come with quotes of their evidence

    async def write(self, evidence: Evidence) -> Draft:
        """Ask one question; where there are pieces, one that needs two or more of them."""

    async def reword(self, evidence: Evidence, draft: Draft, avoided: tuple[str, ...]) -> Draft:
        """Put the question in other words than the ``avoided`` ones; its answer stays."""

    async def answer_from_memory(self, question: str) -> str | None:
        """Answer without the evidence; None where the writer does not know."""

    async def is_right(self, draft: Draft, guess: str) -> bool:
        """Whether a guess says what the answer says."""

    async def supports(self, evidence: Evidence, draft: Draft) -> bool:
        """Whether the evidence supports the answer."""

    def cost(self) -> float | None:
        """US dollars spent so far; None where writing costs nothing."""

    def used_cost(self) -> float | None:
        """US dollars that the replies used in this run have cost, also if an earlier run paid."""

    def calls(self) -> dict[str, Any] | None:
        """Counts and costs of all paid calls; None where there are none."""

    def decisions(self, conditions: str) -> Decisions | None:
        """Return what earlier runs decided; None where deciding again is as quick.

        Args:
            conditions: what outcomes depend on beside the writer and the program.
        """

    def stop(self) -> None:
        """Begin nothing new; what is under way comes to its end."""

    async def close(self) -> None:
        """Give back connections and files."""
