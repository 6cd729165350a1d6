"""What attempts are drawn for: samples of any form, and what a drawer gives for each of them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from megatron_in2.errors import InputError
from megatron_in2.records import Sample
from megatron_in2.segment_store import SegmentStore


@dataclass(frozen=True)
class Task:
    """One sample that attempts are drawn for.

    Args:
        where: ``FILE:LINE``.
        record: the sample as it was read.
        sample: its parts, as training has them.
    """

    where: str
    record: dict[str, Any]
    sample: Sample

    @property
    def reference(self) -> str:
        """The answer that ends the sample."""
        if "messages" in self.record:
            return str(self.record["messages"][-1]["content"])
        if "parts" in self.record:
            return str(self.record["parts"][-1]["text"])
        return str(self.record["answer"])

    @property
    def question(self) -> str:
        """What the last answer replies to, without the context."""
        if "messages" in self.record:
            return str(self.record["messages"][-2]["content"])
        if "parts" in self.record:
            return "".join(str(part["text"]) for part in self.record["parts"][:-1])
        return str(self.record["question"])

    @property
    def folder(self) -> Path:
        """What a recipe's store is relative to."""
        return Path(self.where.rpartition(":")[0]).parent

    @property
    def problem(self) -> str | None:
        """Why no attempt can take the place of the last answer, or None."""
        if "messages" in self.record and self.record["messages"][-1].get("train") is False:
            return "last answer is not trained on"
        if "parts" in self.record:
            learns = [part["learn"] for part in self.record["parts"]]
            if not learns[-1]:
                return "last answer is not trained on"
            if learns[-2:-1] != [False]:
                return "answer of several parts"
        return None


@dataclass(frozen=True)
class Drawn:
    """The attempts at one task that came to their end.

    ``cut_off`` counts those that did not; ``problem`` says why there is none at all.
    """

    texts: tuple[str, ...] = ()
    cut_off: int = 0
    problem: str | None = None


class AttemptDrawer(Protocol):
    """Draws attempts: a checkpoint, or an endpoint.

    ``identity`` (JSON values) tells its attempts from another's.
    """

    identity: dict[str, Any]

    def draw(self, tasks: Iterable[Task]) -> Iterator[Drawn]:
        """Yield what was drawn for each task, in order.

        Raises:
            InputError: it cannot go on.
        """


def stored_texts(path: Path, segments: Sequence[int]) -> list[str]:
    """Return the texts of segments of a store.

    Args:
        path: the store.
        segments: at least one.

    Raises:
        InputError: the store is missing or damaged, or lacks a segment.
    """
    store = _opened_store(path)
    if max(segments) >= len(store):
        raise InputError(
            f"segment {max(segments)} is beyond the {len(store)} of {path}: the samples belong to "
            "another store"
        )
    return [store.text(segment) for segment in segments]


@lru_cache(maxsize=8)
def _opened_store(path: Path) -> SegmentStore:
    return SegmentStore(path)


def require_no_attempt(where: str, record: dict[str, Any]) -> None:
    """Refuse a sample that has an attempt already."""
    if record.get("attempt") is not None:
        raise InputError(
            f"{where}: field 'attempt' is given: attempts are drawn for samples without one; "
            "name the samples from before"
        )
