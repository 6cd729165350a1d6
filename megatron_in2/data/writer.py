"""Writes packed rows as Megatron-Core indexed files, their mask twin and their records."""

import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

from megatron_in2.data.manifest import (
    PADDING_KIND,
    PARTS,
    ROW_RECORD,
    SAMPLE_RECORD,
    Manifest,
    describe_files,
    part_path,
    write_manifest,
)
from megatron_in2.data.pack import padded_length
from megatron_in2.records import EncodedSample, id_hash
from megatron_in2.segment_store import token_dtype
from megatron_in2.templates import InstructionTemplate
from megatron_in2.tokenizer import Tokenizer


@dataclass(frozen=True)
class RowShape:
    """The row length and what every sample in it is padded to a multiple of, in tokens."""

    seq_length: int
    pad_multiple: int


class PackedWriter:
    """Collects rows beside the prefix; :meth:`seal` gives the files their names, manifest last.

    Used as a context manager: left without :meth:`seal`, nothing remains.
    """

    def __init__(
        self, prefix: Path, shape: RowShape, tokenizer: Tokenizer, template: InstructionTemplate
    ) -> None:
        self._prefix = prefix
        self._shape = shape
        self._tokenizer = tokenizer
        self._template = template
        prefix.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.mkdtemp(prefix=f".{prefix.name}.partial-", dir=prefix.parent)
        self._partial = Path(folder) / prefix.name
        dtype = token_dtype(tokenizer.vocab_size)
        self._tokens = IndexedDatasetBuilder(str(part_path(self._partial, ".bin")), dtype)
        self._masks = IndexedDatasetBuilder(
            str(part_path(self._partial, "_loss_mask.bin")), np.uint8
        )
        self._dtype = dtype
        self._samples: list[tuple[int | float, ...]] = []
        self._rows: list[tuple[int, int]] = []
        self._kinds = [PADDING_KIND]
        self._count: Counter[str] = Counter()

    def __enter__(self) -> "PackedWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self._partial.parent, ignore_errors=True)

    @property
    def is_empty(self) -> bool:
        """Whether no row has been added."""
        return not self._rows

    def add_row(self, samples: list[EncodedSample]) -> None:
        """Append one row of whole samples, each padded, the rest of the row filled."""
        length, multiple = self._shape.seq_length, self._shape.pad_multiple
        tokens = np.full(length, self._tokenizer.pad_id, self._dtype)
        mask = np.zeros(length, np.uint8)
        lengths: list[int] = []
        cost = learnt = 0
        for sample in samples:
            start, size = sum(lengths), len(sample.tokens)
            tokens[start : start + size] = sample.tokens
            mask[start : start + size] = sample.loss_mask
            lengths.append(padded_length(size, multiple))
            cost += size * size
            learnt += self._record(sample)
        if (filling := length - sum(lengths)) > 0:
            lengths.append(filling)
            self._samples.append((len(self._rows), 0, 0, 0, 0, np.nan, 0))
        self._tokens.add_document(torch.from_numpy(tokens), lengths)
        self._masks.add_document(torch.from_numpy(mask), lengths)
        self._rows.append((cost, learnt))

    def _record(self, sample: EncodedSample) -> int:
        if sample.kind not in self._kinds:
            self._kinds.append(sample.kind)
        learnt = int(sample.loss_mask.sum())
        spans = int((np.diff(sample.loss_mask.astype(np.int8), prepend=0) == 1).sum())
        position = np.nan if sample.evidence_position is None else sample.evidence_position
        self._samples.append(
            (
                len(self._rows),
                id_hash(sample.id),
                len(sample.tokens),
                spans,
                learnt,
                position,
                self._kinds.index(sample.kind),
            )
        )
        self._count[sample.kind] += 1
        return learnt

    def seal(self, design: str, dropped: Counter[str]) -> Manifest:
        """Finish the files, name them, and write the manifest that makes them a dataset."""
        self._tokens.finalize(str(part_path(self._partial, ".idx")))
        self._masks.finalize(str(part_path(self._partial, "_loss_mask.idx")))
        samples = np.array(self._samples, SAMPLE_RECORD)
        rows = np.array(self._rows, ROW_RECORD)
        np.save(part_path(self._partial, "_samples.npy"), samples)
        np.save(part_path(self._partial, "_rows.npy"), rows)
        manifest = Manifest(
            tokenizer_sha256=self._tokenizer.sha256,
            vocab_size=self._tokenizer.vocab_size,
            template=self._template.name,
            template_sha256=self._template.sha256,
            design=design,
            seq_length=self._shape.seq_length,
            pad_multiple=self._shape.pad_multiple,
            kinds=self._kinds,
            rows=len(rows),
            samples=int((samples["kind"] > 0).sum()),
            tokens=int(samples["length"].sum()),
            learnt_tokens=int(rows["learnt_tokens"].sum()),
            samples_by_kind=dict(self._count),
            dropped=dict(dropped),
            files=describe_files(self._partial),
        )
        part_path(self._prefix, ".json").unlink(missing_ok=True)
        for part in PARTS:
            part_path(self._partial, part).replace(part_path(self._prefix, part))
        write_manifest(self._prefix, manifest)
        return manifest
