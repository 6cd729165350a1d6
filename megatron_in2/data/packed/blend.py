"""Several datasets with weights: which one, and which of its rows, each place of a run reads.

Places come in blocks of ``BLOCK``. In each block a dataset has as many places as its weight says,
and a permutation of the block's own says which. So the n-th reading of a dataset is known from
the place alone: nothing is counted, built or stored at start.

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

    Raises:
        InputError: a weight is not positive, too small to be kept, or one is missing.
    """

    row_counts: tuple[int, ...]
    weights: tuple[float, ...]
    seed: int

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
        slots = np.empty_like(within)
        for block in np.unique(blocks):
            chosen = blocks == block
            slots[chosen] = permuted(within[chosen], BLOCK, mixed_key(self.seed, int(block)))
        counts = np.array(self.places_per_block)
        ends = np.cumsum(counts)
        datasets = np.searchsorted(ends, slots, "right")
        readings = blocks * counts[datasets] + slots - (ends - counts)[datasets]
        rows = np.empty_like(readings)
        for dataset, row_count in enumerate(self.row_counts):
            chosen = datasets == dataset
            key = mixed_key(self.seed, -1 - dataset)
            rows[chosen] = rows_at(readings[chosen], row_count, key)
        return datasets, rows
