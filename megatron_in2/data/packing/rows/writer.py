"""Writes planned rows to disk, continuing where a killed run stopped."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.data.packed.row_files import RowFiles, Sequences
from megatron_in2.data.packing.encoding.encode import StoreRun
from megatron_in2.data.packing.rows.plan import RowPlan, RowShape, plan_rows, sequences_of
from megatron_in2.data.packing.rows.pool import SampleSource
from megatron_in2.progress import progress_bar

ROWS_A_BLOCK = 8192
BLOCK_TOKENS = 1 << 21  # handed to the files at a time


@dataclass(frozen=True)
class Packing:
    """How samples turn into rows.

    Args:
        shape: of the rows.
        seed: of the order.
        packing: put several samples in a row.
        pad_id: fills samples and rows.
        dtype: of the ids.
    """

    shape: RowShape
    seed: int
    packing: bool
    pad_id: int
    dtype: np.dtype[Any]


def write_rows(
    prefix: Path,
    source: SampleSource,
    packing: Packing,
    ids: Callable[[bytes | StoreRun], bytes],
    checkpoint: Callable[[int], None],
    rows_written: int = 0,
    rows_a_block: int | None = None,
) -> tuple[Sequences, dict[str, str]]:
    """Plan rows over all samples of a source and write them.

    Args:
        prefix: where the files lie while they grow.
        source: the samples.
        packing: how.
        ids: returns a run's ids as bytes.
        checkpoint: called with the number of rows that are safely on disk.
        rows_written: what it was called with last, to continue from there.
        rows_a_block: rows between two calls.

    Returns:
        (what the small files say, SHA-256 of the large ones).
    """
    shape = packing.shape
    plan = plan_rows(source.records, shape, packing.seed, packing.packing)
    files = RowFiles(prefix, packing.dtype, rows_written * shape.seq_length)
    block = rows_a_block or ROWS_A_BLOCK
    rows_at_once = max(BLOCK_TOKENS // shape.seq_length, 1)
    builder = _RowBuilder(source, packing, ids)
    try:
        with progress_bar(
            total=plan.rows, initial=rows_written, desc=f"rows of {prefix.name}", unit=" rows"
        ) as progress:
            while rows_written < plan.rows:
                end = min(rows_written + rows_at_once, plan.rows)
                end = min(end, (rows_written // block + 1) * block)
                files.append(*builder.build(plan, rows_written, end))
                progress.update(end - rows_written)
                rows_written = end
                if rows_written % block == 0:
                    files.sync()
                    checkpoint(rows_written)
        sequences = sequences_of(source.records, plan, shape)
        return sequences, files.finish(sequences)
    finally:
        files.close()


class _RowBuilder:
    """Puts the ids and the mask of rows together."""

    def __init__(
        self, source: SampleSource, packing: Packing, ids: Callable[[bytes | StoreRun], bytes]
    ) -> None:
        self._source = source
        self._shape = packing.shape
        self._pad = np.array(packing.pad_id, packing.dtype).tobytes()
        self._ids = ids

    def build(self, plan: RowPlan, first: int, end: int) -> tuple[bytes, bytes]:
        """Return (ids, mask) of the rows from ``first`` to before ``end``."""
        size, multiple = self._shape.seq_length, self._shape.pad_multiple
        runs: list[bytes] = []
        mask = bytearray((end - first) * size)
        for row in range(first, end):
            start, row_end = (row - first) * size, (row - first + 1) * size
            for index in plan.row(row):
                sample = self._source.read(index)
                runs += map(self._ids, sample.runs)
                for begin, stop in sample.trained:
                    mask[start + begin : start + stop] = b"\x01" * (stop - begin)
                padded = -(-sample.length // multiple) * multiple
                runs.append(self._pad * (padded - sample.length))
                start += padded
            runs.append(self._pad * (row_end - start))
        return b"".join(runs), bytes(mask)
