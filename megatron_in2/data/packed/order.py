"""Which row comes when: a pure function of (seed, epoch, place), with nothing built at start."""

import numpy as np
import numpy.typing as npt

ROUNDS = 4  # of the Feistel network; four make the permutation look random in every bit

_Places = npt.NDArray[np.int64]


def rows_at(places: _Places, row_count: int, seed: int) -> _Places:
    """Return the row that each place of an endless run reads.

    Place p belongs to epoch p // row_count; each epoch visits every row once, in an order of its
    own. The order depends on nothing else: not on the layout, not on where a run was resumed.

    Args:
        places: int64, any shape, from 0.
        row_count: rows of the dataset.
        seed: the run's data seed.
    """
    epochs, within = np.divmod(places, row_count)
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        rows[chosen] = permuted(within[chosen], row_count, mixed_key(seed, int(epoch)))
    return rows


def permuted(values: _Places, size: int, key: int) -> _Places:
    """Permute 0..size-1 by a balanced Feistel network, walking cycles that leave the range.

    Args:
        values: int64 [n], each from 0 to size - 1.
        size: how many values there are.
        key: which permutation.
    """
    half = max((max(size - 1, 1).bit_length() + 1) // 2, 1)
    mask = np.uint64((1 << half) - 1)
    result = values.astype(np.uint64)
    outside = np.ones(len(result), bool)
    while outside.any():
        left, right = result[outside] >> np.uint64(half), result[outside] & mask
        for round_key in range(ROUNDS):
            left, right = right, left ^ (_hashed(right, mixed_key(key, round_key)) & mask)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= size
    return result.astype(np.int64)


def _hashed(values: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser, keyed; arithmetic wraps modulo 2^64."""
    mixed = values + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def mixed_key(seed: int, number: int) -> int:
    """Return a 64-bit key for one of the many permutations of a seed."""
    start = np.array([(seed * 0x9E3779B97F4A7C15 + number + 1) % 2**64], np.uint64)
    return int(_hashed(start, 0x9E3779B97F4A7C15)[0])
