"""Composes long contexts as numbers: evidence and fillers, shuffled to a drawn length.

IN2 (arXiv 2404.16811, section 2): L = Shuffle(evidence, fillers), lengths even between two bounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.quality.shared_runs import EvidenceRuns, SharedRuns

DRAW_SURPLUS = 1.2  # fillers drawn for the budget, times this, since some are refused
MAX_TARGETS = 8  # targets drawn until one can be filled to the shortest length
LAST_DRAWS = 4  # tries for the gap that the others have left
LAST_CHOICE = 8  # segments to choose from at least, those that fit the gap best

Segments = npt.NDArray[np.int64]


class Composer:
    """Draws contexts from one store; what a sample gets depends on its own generator alone.

    Args:
        store: the segments.
        min_tokens: shortest target length of an encoded sample.
        max_tokens: longest target length, never exceeded.
        shared_run: a segment that has so many tokens in a row in common with the evidence is no
            filler; 0 compares nothing.
    """

    def __init__(
        self, store: SegmentStore, min_tokens: int, max_tokens: int, shared_run: int = 0
    ) -> None:
        self._documents = np.asarray(store.documents)
        self._min_tokens = min_tokens
        self._max_tokens = max_tokens
        # In a context each segment costs its ids and what comes before the next one.
        self._line_end_tokens = store.line_end_tokens
        self._costs: Segments = np.asarray(store.lengths) + self._line_end_tokens
        self._by_cost: Segments = np.argsort(self._costs, kind="stable")
        self._sorted_costs: Segments = self._costs[self._by_cost]
        self._mean_cost = float(self._costs.mean())
        self._runs = SharedRuns(store, shared_run) if shared_run else None

    def needed_tokens(self, evidence: Sequence[int], frame_tokens: int) -> int:
        """Return the length of a sample whose context is its evidence alone.

        Args:
            evidence: segments.
            frame_tokens: tokens of the sample outside its context.
        """
        # One by one: most evidence is a single segment.
        return frame_tokens - self._line_end_tokens + sum(map(self._costs.item, evidence))

    def fits(self, evidence: Sequence[int], frame_tokens: int) -> bool:
        """Whether evidence can be composed within the longest length."""
        return self.needed_tokens(evidence, frame_tokens) <= self._max_tokens

    def original_text(
        self, evidence: Sequence[int], frame_tokens: int
    ) -> tuple[list[int], list[int], int]:
        """Put evidence that :meth:`fits` in the document that it comes from.

        Args:
            evidence: consecutive segments of one document.
            frame_tokens: tokens of the sample outside its context.

        Returns:
            (segments in order, slots of the evidence, tokens of the encoded sample). The segments
            are the whole document, or as much of it around the evidence as fits.
        """
        own = int(self._documents[evidence[0]])
        start, end = np.searchsorted(self._documents, [own, own + 1]).tolist()
        low, high = evidence[0], evidence[-1] + 1
        length, grows = self.needed_tokens(evidence, frame_tokens), True
        while grows:
            grows = False
            for segment in (low - 1, high):
                if start <= segment < end and length + self._costs[segment] <= self._max_tokens:
                    length += int(self._costs[segment])
                    low, high, grows = min(low, segment), max(high, segment + 1), True
        return list(range(low, high)), [segment - low for segment in evidence], length

    def compose(
        self,
        evidence: Sequence[int],
        frame_tokens: int,
        generator: np.random.Generator,
        similar: Segments | None = None,
        similar_share: float = 0.0,
    ) -> tuple[list[int], list[int], int]:
        """Surround evidence that :meth:`fits` with segments of other documents.

        None of them repeats a part of the evidence, where that is compared.

        Args:
            evidence: segments.
            frame_tokens: tokens of the sample outside its context.
            generator: this sample's own.
            similar: distinct segments to take before random ones, best first.
            similar_share: share of the budget that they may take.

        Returns:
            (segments in order, slots of the evidence, tokens of the encoded sample).
        """
        needed = self.needed_tokens(evidence, frame_tokens)
        strangers = self._strangers(evidence)
        for _ in range(MAX_TARGETS):
            target = int(generator.integers(max(self._min_tokens, needed), self._max_tokens + 1))
            budget = target - needed
            fillers = np.empty(0, np.int64)
            if similar is not None:
                fillers = self._taken(similar, strangers, fillers, int(similar_share * budget))
            fillers = self._filled(fillers, strangers, budget, generator)
            length = needed + int(self._costs[fillers].sum())
            if length >= self._min_tokens:
                break
        chosen = np.concatenate([np.asarray(evidence, np.int64), fillers])
        order = generator.permutation(len(chosen))
        slots = np.flatnonzero(order < len(evidence))
        return chosen[order].tolist(), slots.tolist(), length

    def _filled(
        self,
        fillers: Segments,
        strangers: "_Strangers",
        budget: int,
        generator: np.random.Generator,
    ) -> Segments:
        """Add random segments to fillers until the budget is used up as far as it can be."""
        left = budget - int(self._costs[fillers].sum())
        # One draw for nearly all of the budget, but for its last filler ...
        count = min(int(DRAW_SURPLUS * left / self._mean_cost) + 4, len(self._documents))
        drawn = generator.integers(0, len(self._documents), count)
        taken = self._taken(drawn, strangers, fillers, left)[:-1]
        fillers = np.concatenate([fillers, taken])
        left -= int(self._costs[taken].sum())
        # ... whose place goes to one of those that fit the gap best, so that lengths come out even.
        for _ in range(LAST_DRAWS):
            end = int(np.searchsorted(self._sorted_costs, left, "right"))
            if not end:
                break
            start = int(np.searchsorted(self._sorted_costs, self._sorted_costs[end - 1]))
            start = min(start, max(end - LAST_CHOICE, 0))
            one = self._by_cost[generator.integers(start, end, 1)]
            taken = self._taken(one, strangers, fillers, left)
            fillers = np.concatenate([fillers, taken])
            left -= int(self._costs[taken].sum())
        return fillers

    def _taken(
        self, offered: Segments, strangers: "_Strangers", fillers: Segments, budget: int
    ) -> Segments:
        """Return the offered segments, in order and distinct, until one exceeds the budget."""
        in_order = np.sort(offered)
        if (in_order[1:] == in_order[:-1]).any():  # rarely, in a large store
            offered = offered[np.sort(np.unique(offered, return_index=True)[1])]
        if len(fillers):
            offered = offered[~np.isin(offered, fillers)]
        offered = strangers.among(offered)
        return offered[np.cumsum(self._costs[offered]) <= budget]

    def _strangers(self, evidence: Sequence[int]) -> "_Strangers":
        own = np.unique(self._documents[list(evidence)])
        runs = self._runs.runs(evidence) if self._runs is not None else None
        return _Strangers(self._documents, own, runs)


@dataclass(frozen=True)
class _Strangers:
    """Tells which segments may be fillers.

    Args:
        documents: ordinal of each segment's document, [segments of the store].
        own: documents of the evidence, sorted.
        runs: of the evidence, which no filler may share; None compares nothing.
    """

    documents: Segments
    own: Segments
    runs: EvidenceRuns | None

    def among(self, offered: Segments) -> Segments:
        """Return those of the offered segments that may be fillers, in order."""
        documents = self.documents[offered]
        if len(self.own) == 1:
            offered = offered[documents != self.own[0]]
        else:
            offered = offered[~np.isin(documents, self.own)]
        return offered if self.runs is None else offered[~self.runs.shared_by(offered)]
