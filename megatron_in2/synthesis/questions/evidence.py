"""Walks a store in seeded order and yields what questions may be asked about."""

import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.questions.shared_names import SharedNames
from megatron_in2.synthesis.questions.writer import Evidence, Unusable

MAX_EVIDENCE_SHARE = 0.5  # of the longest context, for all segments of an integration document


def generator_for(seed: int, *key: str) -> np.random.Generator:
    """Return the random generator that belongs to a key: the same in every process and run."""
    return np.random.default_rng([seed, zlib.crc32("/".join(key).encode())])


class EvidenceWalk:
    """Candidate evidence of a store.

    Args:
        store: the segments.
        max_tokens: longest encoded sample.
        seed: of the order.
    """

    def __init__(self, store: SegmentStore, max_tokens: int, seed: int) -> None:
        self._names: SharedNames | None = None  # read when they are needed
        self._store = store
        self._max_tokens = max_tokens
        self._seed = seed
        counts = np.bincount(store.documents)
        # Each document's first segment, and the end of the last one: [documents + 1].
        self._first: npt.NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)])

    def count(self, kind: str) -> int:
        """Return the number of units: no more samples of a kind can be made."""
        if kind == "multi_document":
            return len(self._shared_names())
        return len(self._store) if kind == "fine_grained" else len(self._first) - 1

    def candidates(self, kind: str) -> Iterator[Evidence | Unusable]:
        """Yield evidence of a kind.

        It is one segment, all segments of one document, or segments of several documents. Each
        unit comes once; those too long, or of too few segments, are unusable.
        """
        for segments in self._units(kind):
            identity = self._identity(kind, segments)
            if (reason := self._problem(kind, segments)) is not None:
                yield Unusable(identity, kind, reason)
                continue
            texts = tuple(self._store.text(segment) for segment in segments)
            yield Evidence(identity, kind, segments, texts)

    def _units(self, kind: str) -> Iterator[tuple[int, ...]]:
        if kind == "multi_document":
            return self._shared_names().groups(generator_for(self._seed, kind, "order"))
        return (self._segments(kind, int(unit)) for unit in self._order(kind))

    def _shared_names(self) -> SharedNames:
        if self._names is None:
            self._names = SharedNames(self._store)
        return self._names

    def _order(self, kind: str) -> npt.NDArray[np.int64]:
        """Return all units in random order.

        Of segments, one random segment of every document comes first, as in the paper's
        Algorithm 1; only when all documents have had their turn does a second one follow.
        """
        order = generator_for(self._seed, kind, "order").permutation(self.count(kind))
        if kind != "fine_grained":
            return order
        by_document = np.argsort(self._store.documents[order], kind="stable")
        documents = self._store.documents[order[by_document]]
        turn = np.empty_like(order)
        turn[by_document] = np.arange(len(order)) - self._first[documents]
        return order[np.argsort(turn, kind="stable")]

    def _segments(self, kind: str, unit: int) -> tuple[int, ...]:
        if kind == "fine_grained":
            return (unit,)
        return tuple(range(int(self._first[unit]), int(self._first[unit + 1])))

    def _identity(self, kind: str, segments: tuple[int, ...]) -> str:
        """Name a sample by kind and document: unique over shards, since documents are."""
        if kind == "multi_document":
            return f"{kind}/{'+'.join(map(self._place, segments))}"
        if kind == "fine_grained":
            return f"{kind}/{self._place(segments[0])}"
        return f"{kind}/{self._store.document_id(segments[0])}"

    def _place(self, segment: int) -> str:
        place = segment - int(self._first[self._store.documents[segment]])
        return f"{self._store.document_id(segment)}/{place}"

    def _problem(self, kind: str, segments: tuple[int, ...]) -> str | None:
        tokens = sum(int(self._store.lengths[segment]) for segment in segments)
        if kind != "fine_grained":
            if len(segments) < 2:
                return "document has one segment"
            if tokens > self._max_tokens * MAX_EVIDENCE_SHARE:
                return "evidence too long"
        return "evidence too long" if tokens > self._max_tokens else None
