"""How evenly training steps hold the kinds of samples: trained tokens by step and kind.

``preprocess_in2.py`` arranges rows so that every step holds its share of everything
(:mod:`megatron_in2.data.packing.rows.balance`). This measures what came of it, for any dataset.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

LUMPY_VARIATION = 0.25  # coefficient of variation of a step's trained tokens
LUMPY_SHARE = 0.05  # of all trained tokens from which a kind should be in every step
LUMPY_ABSENCE = 0.1  # of the steps

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """Trained tokens of steps.

    Args:
        kinds: names.
        trained: trained tokens of each kind in each step, int64 [steps, kinds].
    """

    kinds: list[str]
    trained: Ints

    @cached_property
    def per_step(self) -> Ints:
        """Trained tokens of each step, int64 [steps]."""
        totals: Ints = self.trained.sum(axis=1)
        return totals

    @property
    def variation(self) -> float:
        """Coefficient of variation of the trained tokens per step; 0 without any."""
        mean = self.per_step.mean() if len(self.per_step) else 0.0
        return float(self.per_step.std() / mean) if mean else 0.0

    def shares(self, *kinds: str) -> Floats:
        """Return the share of some kinds together in each step's trained tokens, [steps]."""
        chosen = [self.kinds.index(kind) for kind in kinds]
        shares: Floats = self.trained[:, chosen].sum(axis=1) / np.maximum(self.per_step, 1)
        return shares

    def total_share(self, *kinds: str) -> float:
        """Return the share of some kinds together in all trained tokens."""
        chosen = [self.kinds.index(kind) for kind in kinds]
        return float(self.trained[:, chosen].sum() / max(self.trained.sum(), 1))

    def by_size(self) -> list[str]:
        """Return the kinds that are trained on, those with the most trained tokens first."""
        totals = self.trained.sum(axis=0)
        return [self.kinds[kind] for kind in np.argsort(-totals, kind="stable") if totals[kind]]

    def lumps(self) -> list[str]:
        """Say where steps differ more than any packing by this version leaves them; or nothing."""
        found = []
        if self.variation > LUMPY_VARIATION:
            found.append(
                f"the trained tokens of a step vary by {self.variation:.0%} "
                f"({self.per_step.min():,} to {self.per_step.max():,})"
            )
        for kind in self.by_size():
            absent = float((self.shares(kind) == 0).mean())
            if self.total_share(kind) >= LUMPY_SHARE and absent > LUMPY_ABSENCE:
                found.append(f"{absent:.0%} of the steps have no {kind!r} samples")
        return found


def trained_by_kind(cells: Ints, samples: npt.NDArray[np.void], count: int, kinds: int) -> Ints:
    """Sum samples' trained tokens by a group of one's own and by kind.

    Args:
        cells: the group of each sample, int64 [n], from 0.
        samples: SAMPLE_RECORD, [n].
        count: of groups.
        kinds: number of kind codes.

    Returns:
        int64 [count, kinds].
    """
    places = cells * kinds + samples["kind"]
    sums = np.bincount(places, samples["learnt_tokens"], count * kinds)
    return sums.astype(np.int64).reshape(count, kinds)
