"""Composes long contexts as numbers: evidence and random fillers, shuffled to a drawn length.

IN2 (arXiv 2404.16811, section 2): L = Shuffle(evidence, fillers), lengths even between two bounds.
"""

import numpy as np

from megatron_in2.segment_store import SegmentStore

DRAW_SURPLUS = 1.5  # fillers drawn for the room, times this, since some are refused
MAX_DRAWS = 4  # later draws fill the gap that a segment too long for the rest has left


class Composer:
    """Draws contexts from one store; what a sample gets depends on its own generator alone.

    Args:
        store: the segments.
        min_tokens: shortest target length of an encoded sample.
        max_tokens: longest target length, never exceeded.
    """

    def __init__(self, store: SegmentStore, min_tokens: int, max_tokens: int) -> None:
        self._store = store
        self._min_tokens = min_tokens
        self._max_tokens = max_tokens
        # In a context each segment costs its ids and the newline before the next one.
        self._costs = np.asarray(store.lengths) + 1
        self._mean_cost = float(self._costs.mean())
        self._min_cost = int(self._costs.min())

    def compose(
        self, evidence: list[int], frame_tokens: int, generator: np.random.Generator
    ) -> tuple[list[int], list[int], int] | None:
        """Surround evidence with random segments of other documents.

        Args:
            evidence: segments of one document.
            frame_tokens: tokens of the sample outside its context.
            generator: this sample's own.

        Returns:
            (segments in order, slots of the evidence, tokens of the encoded sample), or None
            where the evidence alone exceeds the longest length.
        """
        needed = frame_tokens - 1 + int(self._costs[evidence].sum())
        if needed > self._max_tokens:
            return None
        target = int(generator.integers(self._min_tokens, self._max_tokens + 1))
        fillers = self._fillers(evidence, target - needed, generator)
        chosen = np.concatenate([np.asarray(evidence, np.int64), fillers])
        order = generator.permutation(len(chosen))
        slots = np.flatnonzero(order < len(evidence))
        return (
            chosen[order].tolist(),
            slots.tolist(),
            needed + int(self._costs[fillers].sum()),
        )

    def _fillers(
        self, evidence: list[int], room: int, generator: np.random.Generator
    ) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Draw distinct segments of other documents that fill ``room`` without exceeding it."""
        documents, own = self._store.documents, self._store.documents[evidence[0]]
        fillers = np.empty(0, np.int64)
        for _ in range(MAX_DRAWS):
            left = room - int(self._costs[fillers].sum())
            if left < self._min_cost:
                break
            count = min(int(DRAW_SURPLUS * left / self._mean_cost) + 8, len(documents))
            drawn = generator.integers(0, len(documents), count)
            drawn = drawn[np.sort(np.unique(drawn, return_index=True)[1])]
            drawn = drawn[(documents[drawn] != own) & ~np.isin(drawn, fillers)]
            drawn = drawn[self._costs[drawn] <= left]
            fits = np.cumsum(self._costs[drawn]) <= left
            fillers = np.concatenate([fillers, drawn[fits]])
        return fillers
