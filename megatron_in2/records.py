"""The frozen records that cross stage borders, in the order of the data's way."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt


def id_hash(sample_id: str) -> int:
    """Return a sample id's stable 64-bit hash: it splits off validation and names it in records."""
    return int.from_bytes(hashlib.sha256(sample_id.encode("utf-8")).digest()[:8], "little")


def slot_position(sample_id: str, slot: int, slots: int) -> float:
    """Return where in its context a slot is: (slot + u) / slots, u in [0, 1) from the id.

    The offset keeps positions of contexts with few slots from piling up on a grid.
    """
    return (slot + id_hash(f"{sample_id}/slot") / 2**64) / slots


@dataclass(frozen=True, slots=True)
class Document:
    """One text of the corpus, under an id that does not depend on shards or order."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class QAPair:
    """A question and its answer, both answerable from their evidence alone."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class Recipe:
    """An IN2 sample as numbers: which segments of a store make its context, in which order.

    ``evidence`` are slots in ``segments``; ``n_tokens`` is the length of the encoded sample,
    template, question, answer, begin- and end-of-sequence included.
    """

    id: str
    kind: str
    segments: tuple[int, ...]
    evidence: tuple[int, ...]
    qa: QAPair
    n_tokens: int


@dataclass(frozen=True, slots=True)
class Part:
    """A run of text that is encoded by itself and is trained on, or not, as a whole.

    ``ends_turn`` puts an end-of-sequence token after it, trained on if the part is.
    """

    text: str
    learn: bool
    ends_turn: bool = False


@dataclass(frozen=True, slots=True)
class JoinedPart:
    """An unlearnt prompt around segments of a store: ``before`` + joined segments + ``after``.

    ``before`` ends in a newline and the segments are joined by newlines, so that their ids,
    tokenised once as continuations of a newline, can be concatenated. ``evidence`` are the slots
    in ``segments`` that may not be cut away.
    """

    before: str
    store: Path
    segments: tuple[int, ...]
    after: str
    evidence: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ContextPart:
    """An unlearnt prompt around a context given as text: ``before`` + context + ``after``.

    ``evidence`` are [start, end) character spans in the context that may not be cut away.
    """

    before: str
    context: str
    after: str
    evidence: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Sample:
    """A training sample before tokenising.

    ``evidence_position`` is where in the context its first evidence is, from 0 (start) to 1
    (end), or None where it is not known. ``stated_tokens`` is the length that its writer counted,
    where it stated one: another length means another store or tokenizer.
    """

    id: str
    kind: str
    parts: tuple[Part | JoinedPart | ContextPart, ...]
    evidence_position: float | None = None
    stated_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample as token ids (int32, [n]) and its target-aligned loss mask (uint8, [n])."""

    id: str
    kind: str
    tokens: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.uint8]
    evidence_position: float | None = None
