"""Segments of different documents that mention the same name: evidence of several documents."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import numpy.typing as npt
import xxhash

from megatron_in2.progress import progress_bar
from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.quality.names import names_in
from megatron_in2.synthesis.quality.shared_runs import SharedRuns

MOST_DOCUMENTS = 8  # that mention a name: one that more do says little about what they share
MOST_PIECES = 3
_COPIED_RUN = 16  # tokens: pieces that share so many in a row repeat each other

Numbers = npt.NDArray[np.int64]


class SharedNames:
    """The names that few documents of a store mention, each with its segments.

    All texts are read once; 16 bytes a mention stay in memory.

    Args:
        store: the segments.
    """

    def __init__(self, store: SegmentStore) -> None:
        self._documents = np.asarray(store.documents)
        self._runs = SharedRuns(store, _COPIED_RUN)
        names, segments = _mentions(store)
        order = np.lexsort((segments, names))
        self._segments: Numbers = segments[order]
        starts = np.flatnonzero(np.diff(names[order], prepend=np.uint64(0)) != 0)
        if len(order) and (not len(starts) or starts[0] != 0):
            starts = np.concatenate([[0], starts])
        ends = np.append(starts[1:], len(order))
        wanted = [
            place
            for place, (start, end) in enumerate(zip(starts, ends, strict=True))
            if 2 <= len(np.unique(self._documents[self._segments[start:end]])) <= MOST_DOCUMENTS
        ]
        self._starts, self._ends = starts[wanted], ends[wanted]

    def __len__(self) -> int:
        return len(self._starts)

    def groups(self, generator: np.random.Generator) -> Iterator[tuple[int, ...]]:
        """Yield two or three segments of different documents for each name, in random order.

        No segment comes twice, and none repeats another of its group.
        """
        used: set[int] = set()
        for name in generator.permutation(len(self)):
            mentions = generator.permutation(self._segments[self._starts[name] : self._ends[name]])
            free = (int(segment) for segment in mentions if int(segment) not in used)
            group = tuple(islice(self._distinct(free), MOST_PIECES))
            if len(group) > 1:
                used.update(group)
                yield tuple(sorted(group))

    def _distinct(self, segments: Iterator[int]) -> Iterator[int]:
        """Yield segments of documents that did not come before and that repeat no earlier one."""
        taken: list[int] = []
        for segment in segments:
            if self._documents[segment] in self._documents[taken]:
                continue
            if taken and self._runs.runs(taken).shared_by(np.array([segment])).any():
                continue
            taken.append(segment)
            yield segment


def _mentions(store: SegmentStore) -> tuple[npt.NDArray[np.uint64], Numbers]:
    """Return (hash of the name, segment) of every mention, [mentions] each."""
    names: list[npt.NDArray[np.uint64]] = [np.empty(0, np.uint64)]
    counts = np.zeros(len(store), np.int64)
    for segment in progress_bar(range(len(store)), desc="names", unit=" segments"):
        found = {xxhash.xxh64_intdigest(name.encode()) for name in names_in(store.text(segment))}
        names.append(np.array(sorted(found), np.uint64))
        counts[segment] = len(found)
    return np.concatenate(names), np.repeat(np.arange(len(store)), counts)
