"""Percentile bootstrap of means of means."""

import numpy as np
import numpy.typing as npt

REPLICATES = 1000
LEVEL = 0.95
_SEED = 20240425  # any fixed one: the same scores give the same intervals


def resampled_group_means(
    groups: list[list[npt.NDArray[np.float64]]],
) -> npt.NDArray[np.float64]:
    """Resample the scores of each cell with replacement and average cells within their group.

    Args:
        groups: per group its cells (here: sets), each a vector of scores.

    Returns:
        Means, float64, of shape (groups, REPLICATES).
    """
    chance = np.random.default_rng(_SEED)
    rows = []
    for cells in groups:
        means = [
            cell[chance.integers(len(cell), size=(REPLICATES, len(cell)))].mean(axis=1)
            for cell in cells
        ]
        rows.append(np.mean(means, axis=0))
    return np.array(rows)


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the central interval of ``LEVEL`` of resampled values."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
