"""Finds segments that repeat a part of the evidence: a question would have two places to answer it.

Runs of token ids are compared: no index is needed, any language and code will do, and the cost is
that of reading the ids once. A run of 8 tokens is about 6 English words. Few runs of a filler
consist of ids that the evidence holds at all; only those are looked at closely, as 32-bit hashes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.segment_store import SegmentStore

_BASE = 0x9E3779B1  # odd, so multiplying loses no bit
_TABLE = 1 << 16  # ids that are told apart at first: all of most vocabularies

Hashes = npt.NDArray[np.uint32]
Ids = npt.NDArray[np.integer[Any]]
Numbers = npt.NDArray[np.int64]


class SharedRuns:
    """Compares segments of one store.

    Args:
        store: the segments.
        run: tokens in a row that two segments have in common, from which on they share a run.
    """

    def __init__(self, store: SegmentStore, run: int) -> None:
        self._store = store
        self._run = run
        self._within = np.arange(run)
        # Modulo 2^32; the last id of a run has the first power.
        powers = [pow(_BASE, run - place, 1 << 32) for place in range(run)]
        self._powers = np.array(powers, np.uint32)

    def runs(self, segments: Sequence[int]) -> "EvidenceRuns":
        """Return the runs of some segments, to compare others with."""
        return EvidenceRuns(self, segments)

    def ids(self, segments: Numbers) -> tuple[Ids, Numbers]:
        """Return the ids of segments put one behind the other, and where each one ends."""
        ids, lengths = self._store.joined_ids(segments)
        return ids, np.cumsum(lengths)

    def starts(self, ids: Ids, holds: npt.NDArray[np.bool_]) -> Numbers:
        """Return where runs of ids begin that ``holds`` knows, [runs].

        Args:
            ids: of segments, one behind the other.
            holds: by the lowest 16 bits of an id.
        """
        known = holds[ids.astype(np.uint16, copy=False)]
        # Of 1, 2, 4, ... ids in a row: log2(run) passes.
        length = 1
        while length < self._run:
            step = min(length, self._run - length)
            known = known[:-step] & known[step:]
            length += step
        return np.flatnonzero(known)

    def hashes(self, ids: Ids, starts: Numbers) -> Hashes:
        """Return a hash of each run that begins at one of the starts, [starts]."""
        runs = ids[starts[:, None] + self._within].astype(np.uint32)
        terms = (runs ^ np.uint32(0x5BD1E995)) * self._powers
        hashes: Hashes = terms.sum(axis=1, dtype=np.uint32)
        return hashes

    def owners(self, starts: Numbers, ends: Numbers) -> Numbers:
        """Return the segment that holds each run, [starts]; -1 where it reaches into the next one.

        Args:
            starts: of the runs.
            ends: of the segments, as :meth:`ids` gives them.
        """
        first, last = (
            np.searchsorted(ends, at, "right") for at in (starts, starts + self._run - 1)
        )
        return np.where(first == last, first, -1)


class EvidenceRuns:
    """The runs of one sample's evidence.

    Args:
        compared: the store's segments.
        evidence: some of them.
    """

    def __init__(self, compared: SharedRuns, evidence: Sequence[int]) -> None:
        self._compared = compared
        ids, ends = compared.ids(np.array(evidence, np.int64))
        self._holds = np.zeros(_TABLE, np.bool_)
        self._holds[ids.astype(np.uint16, copy=False)] = True
        starts = compared.starts(ids, self._holds)
        if len(evidence) > 1:  # no run that only their order makes
            starts = starts[compared.owners(starts, ends) >= 0]
        self._hashes = np.append(np.sort(compared.hashes(ids, starts)), np.uint32(0))

    def shared_by(self, segments: Numbers) -> npt.NDArray[np.bool_]:
        """Return which of the segments share a run with the evidence, [segments]."""
        shared = np.zeros(len(segments), np.bool_)
        if len(segments):
            ids, ends = self._compared.ids(segments)
            likely = self._compared.starts(ids, self._holds)
            if len(likely):
                hashes = self._compared.hashes(ids, likely)
                places = np.searchsorted(self._hashes[:-1], hashes)
                certain = likely[self._hashes[places] == hashes]
                owners = self._compared.owners(certain, ends)
                shared[owners[owners >= 0]] = True
        return shared
