"""Turns packed samples into rows on disk, and counts them for the manifest."""

from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.data.packed.manifest import PADDING_KIND, ROW_RECORD, SAMPLE_RECORD
from megatron_in2.data.packed.row_files import RowFiles
from megatron_in2.data.packing.encode import CompactSample, SegmentStores
from megatron_in2.data.packing.pack import padded_length
from megatron_in2.tokenizers.base import Tokenizer, token_dtype


@dataclass(frozen=True)
class RowShape:
    """The row length and what every sample in it is padded to a multiple of, in tokens."""

    seq_length: int
    pad_multiple: int


@dataclass
class Counts:
    """What a dataset holds and what was left out, by reason; plain values, kept in the journal.

    ``kinds`` are the names behind the kind codes.
    """

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    learnt_tokens: int = 0
    kinds: list[str] = field(default_factory=lambda: [PADDING_KIND])
    samples_by_kind: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def values(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        return {**values, **{name: dict(values[name]) for name in ("samples_by_kind", "dropped")}}

    @classmethod
    def restored(cls, values: dict[str, Any]) -> "Counts":
        """Return counts from what :meth:`values` made of them."""
        counters = {name: Counter(values[name]) for name in ("samples_by_kind", "dropped")}
        return cls(**{**values, **counters})


class PackedWriter:
    """Writes rows of samples to growing files.

    Args:
        prefix: where the files lie while they grow.
        shape: of the rows.
        tokenizer: the run's.
        state: what :meth:`checkpoint` returned last, to continue from there.

    Raises:
        InputError: the files do not match the state.
    """

    def __init__(
        self,
        prefix: Path,
        shape: RowShape,
        tokenizer: Tokenizer,
        state: dict[str, Any] | None = None,
    ) -> None:
        self._shape = shape
        self._stores = SegmentStores(tokenizer)
        dtype = np.dtype(token_dtype(tokenizer.vocab_size))
        self._pad = np.array(tokenizer.pad_id, dtype).tobytes()
        self.counts = Counts.restored(state["counts"]) if state else Counts()
        self.files = RowFiles(prefix, dtype, state["sizes"] if state else None)

    def add_row(self, samples: list[CompactSample]) -> None:
        """Append one row of whole samples, each padded, the rest of the row filled."""
        size, multiple = self._shape.seq_length, self._shape.pad_multiple
        runs: list[bytes] = []
        mask = bytearray(size)
        lengths: list[int] = []
        start = cost = learnt = 0
        records: list[tuple[int | float, ...]] = []
        for sample in samples:
            runs += map(self._stores.ids, sample.runs)
            padded = padded_length(sample.length, multiple)
            runs.append(self._pad * (padded - sample.length))
            for first, last in sample.learnt:
                mask[start + first : start + last] = b"\x01" * (last - first)
            records.append(self._record(sample))
            lengths.append(padded)
            start += padded
            cost += sample.length**2
            learnt += sum(last - first for first, last in sample.learnt)
        if start < size:
            runs.append(self._pad * (size - start))
            lengths.append(size - start)
            records.append((self.counts.rows, 0, 0, 0, 0, np.nan, 0))
        self.files.append(
            b"".join(runs),
            bytes(mask),
            lengths,
            np.array(records, SAMPLE_RECORD),
            np.array([(cost, learnt)], ROW_RECORD),
        )
        self.counts.rows += 1
        self.counts.learnt_tokens += learnt

    def _record(self, sample: CompactSample) -> tuple[int | float, ...]:
        counts = self.counts
        if sample.kind not in counts.kinds:
            counts.kinds.append(sample.kind)
        counts.samples += 1
        counts.tokens += sample.length
        counts.samples_by_kind[sample.kind] += 1
        position = sample.evidence_position
        return (
            counts.rows,
            sample.id_hash,
            sample.length,
            len(sample.learnt),
            sum(last - first for first, last in sample.learnt),
            np.nan if position is None else position,
            counts.kinds.index(sample.kind),
        )

    def checkpoint(self) -> dict[str, Any]:
        """Force all rows to disk; return, as plain values, what continues from here."""
        return {"sizes": self.files.sync(), "counts": self.counts.values()}
