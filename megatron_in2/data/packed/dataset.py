"""Reads packed rows: a row touches only its own bytes, and opening scans nothing."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_in2.data.packed.manifest import Manifest, part_path, read_manifest
from megatron_in2.data.packed.mixture import trained_by_kind
from megatron_in2.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row.

    ``tokens`` is int64 [S], ``loss_mask`` uint8 [S] and target-aligned; ``lengths`` are the
    padded token counts of its sequences, in order, summing to S; ``records`` are their entries
    of P_samples.npy (the row's filling, if any, is the last, of true length 0).
    """

    index: int
    tokens: npt.NDArray[np.int64]
    loss_mask: npt.NDArray[np.uint8]
    lengths: list[int]
    records: npt.NDArray[np.void]


class PackedDataset:
    """A packed dataset at a prefix, memory-mapped.

    Raises:
        InputError: no complete dataset is there.
    """

    def __init__(self, prefix: Path) -> None:
        self.prefix = prefix
        self.manifest: Manifest = read_manifest(prefix)
        if self.manifest.rows:  # an empty file cannot be mapped
            self._tokens = IndexedDataset(str(prefix))
            self._masks = IndexedDataset(str(part_path(prefix, "_loss_mask")))
        self._samples = np.load(part_path(prefix, "_samples.npy"), mmap_mode="r")
        self.rows = np.load(part_path(prefix, "_rows.npy"), mmap_mode="r")

    def __len__(self) -> int:
        return self.manifest.rows

    def require_rows(self, indices: Iterable[int]) -> None:
        """Check that rows exist.

        Raises:
            InputError: one does not.
        """
        for index in indices:
            if not 0 <= index < len(self):
                known = f"rows are 0 to {len(self) - 1}" if len(self) else "it holds none"
                raise InputError(f"{self.prefix} has no row {index}: {known}")

    def __getitem__(self, index: int) -> Row:
        borders = self._tokens.document_indices
        first, last = int(borders[index]), int(borders[index + 1])
        # A row's sequences lie side by side: one reading, copied, for the file's pages are lent.
        size = self.manifest.seq_length
        return Row(
            index=index,
            tokens=self._tokens.get(first, length=size).astype(np.int64),
            loss_mask=self._masks.get(first, length=size).copy(),
            lengths=self._tokens.sequence_lengths[first:last].tolist(),
            records=self._samples[first:last],
        )

    def trained_by_kind(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the trained tokens of each kind in rows; reads no tokens.

        Args:
            rows: int64 [n].

        Returns:
            int64 [n, kinds], in the order of the manifest's ``kinds``.
        """
        borders = self._tokens.document_indices
        firsts = np.asarray(borders[rows])
        counts = borders[rows + 1] - firsts
        own = np.repeat(np.arange(len(rows)), counts)
        starts = np.cumsum(counts) - counts
        records = self._samples[np.arange(len(own)) - starts[own] + firsts[own]]
        return trained_by_kind(own, records, len(rows), len(self.manifest.kinds))

    def sample_count(self, index: int) -> int:
        """Samples in a row, its filling not counted; reads no tokens."""
        borders = self._tokens.document_indices
        records = self._samples[int(borders[index]) : int(borders[index + 1])]
        return int((records["length"] > 0).sum())
