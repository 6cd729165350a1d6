"""Several datasets with weights: which one, and which of its rows, each place of a run reads.

Places come in blocks of ``BLOCK``. In each block a dataset has as many places as its weight says,
spread evenly: every run of places holds the datasets by their weights, to a row or two, and reads
each dataset's rows in its own order. So the n-th reading of a dataset is known from the place
alone: nothing is counted, built or stored at start.

Blends of datasets of format 2 alone keep the order that they have always had, so that old runs
resume as they began: there a permutation of each block says which of its places a dataset has.

A blend is written as Megatron-LM writes it, weights and prefixes in turn: ``0.7 data/in2 0.3
data/chat``; one dataset is its prefix alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.manifest import Manifest
from megatron_in2.data.packed.order import mixed_key, permuted, rows_at
from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text

BLOCK = 10_000  # places; weights are exact to 1 / BLOCK

_Places = npt.NDArray[np.int64]


def parse_blend(text: str) -> list[tuple[float, Path]]:
    """Read what ``data.train`` holds: (weight, prefix) of each dataset.

    Raises:
        InputError: weights and prefixes do not take turns.
    """
    words = text.split()
    if len(words) <= 1:
        return [(1.0, Path(word)) for word in words]
    try:
        weights = [float(word) for word in words[::2]]
    except ValueError as error:
        raise InputError(
            f"data.train={text!r}: name one prefix, or weights and prefixes in turn "
            "(0.7 data/in2 0.3 data/chat)"
        ) from error
    if len(words) % 2:
        raise InputError(f"data.train={text!r}: a weight has no prefix behind it")
    return list(zip(weights, map(Path, words[1::2]), strict=True))


@dataclass(frozen=True)
class BlendPart:
    """One dataset of a blend: its weight as given, its prefix, and its manifest."""

    weight: float
    prefix: Path
    manifest: Manifest


def blend_sha256(text: str, manifests: Sequence[Manifest]) -> str:
    """Say which rows a run reads: a hash of the token files and, for several, their weights."""
    hashes = [str(manifest.files[".bin"]["sha256"]) for manifest in manifests]
    if len(hashes) == 1:
        return hashes[0]
    weights = [str(weight) for weight, _ in parse_blend(text)]
    return sha256_of_text("\n".join(hashes + weights))


@dataclass(frozen=True)
class Blend:
    """A mixture of datasets, as a pure function of the place.

    Args:
        row_counts: rows of each dataset.
        weights: its share of the places; they need not sum to 1.
        seed: the run's data seed.
        unit_rows: rows of the balanced units of each, as its manifest has it; none given: 0 each.

    Raises:
        InputError: a weight is not positive, too small to be kept, or one is missing.
    """

    row_counts: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int
    unit_rows: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.row_counts) != len(self.weights) or not self.row_counts:
            raise InputError(
                f"{len(self.weights)} weights for {len(self.row_counts)} datasets: give one each"
            )
        if min(self.row_counts) < 1:
            raise InputError("a dataset of the blend has no rows")
        if not all(np.isfinite(weight) and weight > 0 for weight in self.weights):
            raise InputError(f"weights {self.weights}: each must be above 0")
        if min(self.places_per_block) < 1:
            raise InputError(
                f"weights {self.weights}: none may be below 1/{BLOCK} of their sum; leave it out"
            )

    @property
    def places_per_block(self) -> list[int]:
        """How many of a block's places each dataset has (largest remainders; sums to BLOCK)."""
        exact = np.array(self.weights) / sum(self.weights) * BLOCK
        counts = np.floor(exact).astype(np.int64)
        order = np.argsort(-(exact - counts), kind="stable")
        counts[order[: BLOCK - counts.sum()]] += 1
        return [int(count) for count in counts]

    def rows_at(self, places: Sequence[int] | _Places) -> tuple[_Places, _Places]:
        """Return the dataset and the row that each place of an endless run reads.

        Each dataset's rows come in the epochs of :func:`~megatron_in2.data.packed.order.rows_at`,
        every row once an epoch, wherever the other datasets' epochs end.

        Args:
            places: from 0, int64 [n].

        Returns:
            (indices of datasets, rows in them), int64 [n] each.
        """
        blocks, within = np.divmod(np.asarray(places, np.int64), BLOCK)
        counts = np.array(self.places_per_block)
        if any(self.unit_rows):
            datasets, ordinals = self._evenly(within)
        else:
            datasets, ordinals = self._permuted(blocks, within)
        readings = blocks * counts[datasets] + ordinals
        rows = np.empty_like(readings)
        for dataset, row_count in enumerate(self.row_counts):
            chosen = datasets == dataset
            key = mixed_key(self.seed, -1 - dataset)
            unit_rows = self.unit_rows[dataset] if self.unit_rows else 0
            rows[chosen] = rows_at(readings[chosen], row_count, key, unit_rows)
        return datasets, rows

    def _permuted(self, blocks: _Places, within: _Places) -> tuple[_Places, _Places]:
        """Return each place's dataset, and which of the dataset's places in the block it is."""
        slots = np.empty_like(within)
        for block in np.unique(blocks):
            chosen = blocks == block
            slots[chosen] = permuted(within[chosen], BLOCK, mixed_key(self.seed, int(block)))
        counts = np.array(self.places_per_block)
        ends = np.cumsum(counts)
        datasets = np.searchsorted(ends, slots, "right")
        return datasets, slots - (ends - counts)[datasets]

    def _evenly(self, within: _Places) -> tuple[_Places, _Places]:
        """Return what :meth:`_permuted` does; any run of places has each dataset's share."""
        datasets, ordinals = np.zeros_like(within), within.copy()
        counts = self.places_per_block
        # Split off one dataset after the other: of the n first places left, floor(n * share) are
        # its own. Both that and what is left grow by 0 or 1 a place, so each place has one owner.
        left, total = np.ones(len(within), bool), BLOCK
        for dataset, count in enumerate(counts):
            before = ordinals * count // total
            own = left & ((ordinals + 1) * count // total > before)
            datasets[own] = dataset
            rest = left & ~own
            ordinals = np.where(own, before, np.where(rest, ordinals - before, ordinals))
            left, total = rest, total - count
        return datasets, ordinals
