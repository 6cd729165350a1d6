"""Which samples make which row, in which order rows are written, and what the small files say.

The plan depends on the samples alone: on their ids, lengths, kinds and trained tokens, and on the
seed. It depends neither on the order of the input, nor on shards, workers or kills.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.manifest import ROW_RECORD, SAMPLE_RECORD
from megatron_in2.data.packed.order import hashed, mixed_key
from megatron_in2.data.packed.row_files import Sequences
from megatron_in2.data.packing.rows.balance import MAX_KINDS, balanced_order
from megatron_in2.data.packing.rows.fit import fit_rows

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RowShape:
    """The row length and what every sample in it is padded to a multiple of, in tokens."""

    seq_length: int
    pad_multiple: int

    def padded(self, lengths: Ints) -> Ints:
        """Round lengths up to the multiple."""
        return -(-lengths // self.pad_multiple) * self.pad_multiple


@dataclass(frozen=True)
class RowPlan:
    """The rows, in the order in which they are written.

    ``samples`` are indices into the records, row after row, int64 [samples]; ``starts`` says
    where in them each row starts, and how many there are, int64 [rows + 1].
    """

    samples: Ints
    starts: Ints

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    def row(self, index: int) -> list[int]:
        """Return the samples of one row."""
        chosen: list[int] = self.samples[self.starts[index] : self.starts[index + 1]].tolist()
        return chosen


def plan_rows(
    records: npt.NDArray[np.void], shape: RowShape, seed: int, packing: bool = True
) -> RowPlan:
    """Plan all rows.

    Args:
        records: POOL_RECORD, each id hash once.
        shape: of the rows.
        seed: decides among samples that are alike.
        packing: put several samples in a row; else each gets its own.
    """
    key = mixed_key(seed, 0)
    order = np.argsort(hashed(records["id_hash"], key), kind="stable")
    lengths = shape.padded(records["length"][order].astype(np.int64))
    trained = records["learnt_tokens"][order].astype(np.int64)
    if packing:
        units = lengths // shape.pad_multiple
        rows = fit_rows(units, trained, shape.seq_length // shape.pad_multiple)
    else:
        rows = np.arange(len(records))
    count = int(rows.max()) + 1 if len(rows) else 0
    features = _features(rows, trained, records["kind"][order], count)
    written = balanced_order(features, mixed_key(seed, 1))
    places = np.empty(count, np.int64)
    places[written] = np.arange(count)
    by_row = np.lexsort((-lengths, places[rows]))
    starts = np.zeros(count + 1, np.int64)
    np.cumsum(np.bincount(places[rows], minlength=count), out=starts[1:])
    return RowPlan(order[by_row], starts)


def _features(rows: Ints, trained: Ints, kinds: npt.NDArray[np.uint8], count: int) -> Ints:
    """Return each row's trained tokens, of all kinds and of each, int64 [rows, 1 + kinds]."""
    totals = np.bincount(kinds, trained)
    leading = np.argsort(-totals, kind="stable")[: min(MAX_KINDS, np.count_nonzero(totals))]
    columns = [np.bincount(rows, trained, count)]
    if len(leading) > 1:
        for kind in leading:
            chosen = kinds == kind
            columns.append(np.bincount(rows[chosen], trained[chosen], count))
    return np.stack(columns, axis=1).astype(np.int64)


def sequences_of(records: npt.NDArray[np.void], plan: RowPlan, shape: RowShape) -> Sequences:
    """Return what the small files say of a plan's rows."""
    chosen = records[plan.samples]
    rows = np.repeat(np.arange(plan.rows), np.diff(plan.starts))
    lengths = chosen["length"].astype(np.int64)
    padded = shape.padded(lengths)
    filled = np.bincount(rows, padded, plan.rows).astype(np.int64)
    is_short = filled < shape.seq_length  # a last sequence of padding fills the row
    fillings_before: Ints = np.cumsum(is_short) - is_short
    places = np.arange(len(chosen)) + fillings_before[rows]
    fillings = plan.starts[1:][is_short] + fillings_before[is_short]
    samples = np.zeros(len(chosen) + len(fillings), SAMPLE_RECORD)
    samples["row"][places], samples["row"][fillings] = rows, np.flatnonzero(is_short)
    samples["evidence_position"] = np.nan
    for name in ("id_hash", "length", "learnt_spans", "learnt_tokens", "evidence_position", "kind"):
        samples[name][places] = chosen[name]
    sequence_lengths = np.zeros(len(samples), np.int32)
    sequence_lengths[places] = padded
    sequence_lengths[fillings] = shape.seq_length - filled[is_short]
    row_records = np.zeros(plan.rows, ROW_RECORD)
    np.add.at(row_records["attention_cost"], rows, lengths * lengths)
    np.add.at(row_records["learnt_tokens"], rows, chosen["learnt_tokens"])
    return Sequences(samples, sequence_lengths, row_records)
