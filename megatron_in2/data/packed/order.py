"""Which row comes when: a pure function of (seed, epoch, place), with nothing built at start.

Two orders exist. Datasets of format 2 have their rows in the order in which they were packed: their
training order is a permutation of all rows. Since format 3 packing arranges rows in balanced units
(:mod:`megatron_in2.data.packing.rows.balance`): here units are permuted and a unit's rows stay
together, so that any run of places is as balanced as the units are.
"""

import numpy as np
import numpy.typing as npt

ROUNDS = 4  # of the Feistel network; four make the permutation look random in every bit

_Places = npt.NDArray[np.int64]


def rows_at(places: _Places, row_count: int, seed: int, unit_rows: int = 0) -> _Places:
    """Return the row that each place of an endless run reads.

    Place p belongs to epoch p // row_count; each epoch visits every row once, in an order of its
    own. The order depends on nothing else: not on the layout, not on where a run was resumed.

    Args:
        places: int64, any shape, from 0.
        row_count: rows of the dataset.
        seed: the run's data seed.
        unit_rows: rows of a balanced unit, a power of two, as the manifest has it; 0: no units.
    """
    epochs, within = np.divmod(places, row_count)
    rows = np.empty_like(places)
    for epoch in np.unique(epochs):
        chosen = epochs == epoch
        key = mixed_key(seed, int(epoch))
        if unit_rows:
            rows[chosen] = _permuted_units(within[chosen], row_count, unit_rows, key)
        else:
            rows[chosen] = permuted(within[chosen], row_count, key)
    return rows


def _permuted_units(places: _Places, row_count: int, unit_rows: int, key: int) -> _Places:
    """Permute whole units of rows; the rows after the last whole unit come last in each epoch.

    Inside a unit the order changes by an exclusive or, drawn for each unit: aligned halves,
    quarters and so on of a unit keep their rows, which packing has balanced too.
    """
    units = row_count // unit_rows
    ends = units * unit_rows
    rows = np.empty_like(places)
    whole = places < ends
    ranks, slots = np.divmod(places[whole], unit_rows)
    chosen = permuted(ranks, units, key) if units else ranks
    flips = hashed(chosen.astype(np.uint64), mixed_key(key, 0)) % np.uint64(unit_rows)
    rows[whole] = chosen * unit_rows + (slots ^ flips.astype(np.int64))
    rest = places[~whole] - ends
    rows[~whole] = ends + permuted(rest, max(row_count - ends, 1), mixed_key(key, 1))
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
            left, right = right, left ^ (hashed(right, mixed_key(key, round_key)) & mask)
        result[outside] = (left << np.uint64(half)) | right
        outside = result >= size
    return result.astype(np.int64)


def hashed(values: npt.NDArray[np.uint64], key: int) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser, keyed: a bijection of 64-bit numbers; arithmetic wraps."""
    mixed = values + np.uint64(key)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def mixed_key(seed: int, number: int) -> int:
    """Return a 64-bit key for one of the many permutations of a seed."""
    start = np.array([(seed * 0x9E3779B97F4A7C15 + number + 1) % 2**64], np.uint64)
    return int(hashed(start, 0x9E3779B97F4A7C15)[0])
