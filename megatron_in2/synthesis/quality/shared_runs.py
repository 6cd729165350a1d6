"""Finds segments that repeat a part of the evidence: a question would have two places to answer it.

Runs of token ids are compared, as 32-bit hashes: no index is needed, any language and code will
do, and the cost is that of reading the ids once. A run of 8 tokens is about 6 English words. Of a
context's 32,768 runs, 0.001 are taken for one of an evidence of 140 by chance: a filler more or
less does not matter.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.segment_store import SegmentStore

_BASE = 0x9E3779B1  # odd, so multiplying loses no bit
_TABLE_BITS = 16  # of the small table that is looked into first

Hashes = npt.NDArray[np.uint32]
Numbers = npt.NDArray[np.int64]


class SharedRuns:
    """Compares segments of one store.

    Args:
        store: the segments.
        run: tokens in a row that two segments have in common, from which on they share a run.
    """

    def __init__(self, store: SegmentStore, run: int) -> None:
        self.run = run
        self._store = store

    def runs(self, segments: Sequence[int]) -> "EvidenceRuns":
        """Return the runs of some segments, to compare others with."""
        return EvidenceRuns(self, segments)

    def hashes(self, segments: Numbers) -> tuple[Hashes, Numbers]:
        """Return the hashes of all runs in segments that are put one behind the other.

        Returns:
            (hashes [runs], ordinal of the first run behind each segment [segments]). A run may
            reach from one segment into the next: see :meth:`owners`.
        """
        if not len(segments):
            return np.empty(0, np.uint32), np.empty(0, np.int64)
        ids, lengths = self._store.joined_ids(segments)
        return _run_hashes(ids, self.run), np.cumsum(lengths)

    def owners(self, runs: Numbers, ends: Numbers) -> Numbers:
        """Return the segments that hold some runs; runs that reach into the next one are left out.

        Args:
            runs: ordinals.
            ends: of the segments, as :meth:`hashes` gives them.
        """
        first, last = (np.searchsorted(ends, at, "right") for at in (runs, runs + self.run - 1))
        owners: Numbers = first[first == last]
        return owners


class EvidenceRuns:
    """The runs of one sample's evidence.

    Args:
        compared: the store's segments.
        evidence: some of them.
    """

    def __init__(self, compared: SharedRuns, evidence: Sequence[int]) -> None:
        self._compared = compared
        # Segment by segment: no run that only their order makes.
        each = [compared.hashes(np.array([segment], np.int64))[0] for segment in evidence]
        self._hashes = np.unique(np.concatenate(each))
        # Most runs of a filler are none of the evidence's: a table of 64 KB tells it at once.
        self._table = np.zeros(1 << _TABLE_BITS, np.bool_)
        self._table[_places(self._hashes)] = True

    def shared_by(self, segments: Numbers) -> npt.NDArray[np.bool_]:
        """Return which of the segments share a run with the evidence, [segments]."""
        shared = np.zeros(len(segments), np.bool_)
        hashes, ends = self._compared.hashes(segments)
        likely = np.flatnonzero(self._table[_places(hashes)])
        certain = likely[np.isin(hashes[likely], self._hashes)]
        shared[self._compared.owners(certain, ends)] = True
        return shared


def _places(hashes: Hashes) -> Hashes:
    # The high bits: they depend on all ids of the run.
    return hashes >> np.uint32(32 - _TABLE_BITS)


def _run_hashes(ids: npt.NDArray[np.integer[Any]], run: int) -> Hashes:
    """Return a hash, modulo 2^32, of each ``run`` ids in a row, [ids - run + 1].

    Runs of 1, 2, 4, ... ids are joined to longer ones: log2(run) passes instead of ``run``.
    """
    if len(ids) < run:
        return np.empty(0, np.uint32)
    part = (ids.astype(np.uint32) ^ np.uint32(0x5BD1E995)) * np.uint32(_BASE)  # of `length` ids
    length, done = 1, 0
    hashes = np.zeros(len(ids) + 1, np.uint32)  # of the first `done` ids of each run
    while True:
        shift = np.uint32(pow(_BASE, length, 1 << 32))
        if run & length:
            count = len(ids) - done - length + 1
            hashes = hashes[:count] * shift + part[done : done + count]
            done += length
        if done == run:
            return hashes
        part = part[:-length] * shift + part[length:]
        length *= 2
