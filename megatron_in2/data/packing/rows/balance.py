"""The order of rows on disk: small units that all hold their share of everything.

A training step reads some rows. Drawn at random, their trained tokens vary, and the share of a rare
kind varies more. So rows are assigned to units of :data:`UNIT_ROWS` rows, stratified: each unit
gets one row of every sixteenth of the rows sorted by trained tokens. Then units swap rows of one
stratum, in pairs, wherever both come closer to the mean in all features at once: trained tokens,
and trained tokens of every kind. All of it is integer arithmetic on seeded hashes: the result is
the same on every machine.
"""

import math

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.order import hashed, mixed_key

UNIT_ROWS = 16  # a power of two; a step of 64 rows reads four units
PASSES = 48  # of swaps; each unit meets one other unit in a pass
MAX_KINDS = 15  # that are balanced one by one; those with fewer trained tokens together
RESOLUTION = 256  # steps in which a standard deviation of a feature is measured

Ints = npt.NDArray[np.int64]


def balanced_order(features: Ints, key: int) -> Ints:
    """Return the rows in the order in which they are to be written.

    Args:
        features: int64 [rows, features]; the first is a row's trained tokens.
        key: seeds the deal.

    Returns:
        Row numbers, int64 [rows]: whole units first, then the rows that make none.
    """
    count = len(features)
    ties = hashed(np.arange(count, dtype=np.uint64), key)
    ranked = np.lexsort((ties, -features[:, 0]))
    units, rest = divmod(count, UNIT_ROWS)
    left_over = (2 * np.arange(rest) + 1) * count // (2 * max(rest, 1))  # even over the ranks
    strata = np.delete(ranked, left_over).reshape(UNIT_ROWS, units)
    for index in range(UNIT_ROWS):
        strata[index] = strata[index][_shuffled(units, mixed_key(key, index))]
    _swap(strata, _scaled(features), key)
    strata = strata[_bit_reversed(UNIT_ROWS)][:, _shuffled(units, mixed_key(key, UNIT_ROWS))]
    return np.concatenate([strata.T.ravel(), ranked[left_over]])


def _swap(strata: Ints, features: npt.NDArray[np.int64], key: int) -> None:
    """Swap rows of one stratum between pairs of units where that lowers their imbalance.

    Args:
        strata: int64 [UNIT_ROWS, units], the row that each unit has of each stratum; changed.
        features: int64 [rows, features], scaled alike.
        key: seeds the pairs.
    """
    units = strata.shape[1]
    sums = features[strata[0]]
    for stratum in strata[1:]:
        sums += features[stratum]
    for number in range(PASSES):
        pairs = _shuffled(units, mixed_key(key, UNIT_ROWS + 1 + number))
        ours, theirs = pairs[: units // 2], pairs[units // 2 : units // 2 * 2]
        difference = sums[ours] - sums[theirs]
        best, best_stratum = np.zeros(len(ours), np.int64), np.full(len(ours), -1)
        for index, stratum in enumerate(strata):
            change = features[stratum[theirs]] - features[stratum[ours]]
            gain = -((difference + change) * change).sum(axis=1)
            better = gain > best
            best[better], best_stratum[better] = gain[better], index
        swapped = best_stratum >= 0
        ours, theirs, at = ours[swapped], theirs[swapped], best_stratum[swapped]
        one, other = strata[at, ours], strata[at, theirs]
        change = features[other] - features[one]
        sums[ours] += change
        sums[theirs] -= change
        strata[at, ours], strata[at, theirs] = other, one


def _scaled(features: Ints) -> Ints:
    """Measure each feature in its own standard deviation, in whole steps."""
    scaled = np.empty_like(features)
    count = max(len(features), 1)
    for index, values in enumerate(features.T):
        total, squares = int(values.sum()), int((values * values).sum())
        deviation = math.sqrt(max(count * squares - total * total, 0)) / count
        scaled[:, index] = np.rint(values * (RESOLUTION / deviation)) if deviation else 0
    return scaled


def _shuffled(count: int, key: int) -> Ints:
    return np.argsort(hashed(np.arange(count, dtype=np.uint64), key), kind="stable")


def _bit_reversed(count: int) -> list[int]:
    """Return 0 to count - 1, a power of two, so that every aligned part holds an even selection."""
    bits = count.bit_length() - 1
    return [int(f"{index:0{bits}b}"[::-1], 2) for index in range(count)]
