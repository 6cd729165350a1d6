"""Writes a packed dataset in the formats of other trainers: Megatron-Bridge and TRL.

Both keep the rows and their order on disk, which is an even mixture read from the start on.
Samples stay apart, and the same tokens are trained on. Rows are read from the memory-mapped files.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow
import pyarrow.parquet

from megatron_in2.choices import wrong_choice
from megatron_in2.data.packed.manifest import Manifest, part_path, read_manifest
from megatron_in2.data.packed.row_files import sequence_lengths
from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file
from megatron_in2.progress import progress_bar
from megatron_in2.tokenizers.base import token_dtype

Trainer = Literal["megatron-bridge", "trl"]
NO_LOSS = -100  # a label that torch's cross-entropy leaves out
BEHIND_END = "trained tokens behind an end-of-sequence, which Megatron-Bridge leaves out"
ROWS_A_GROUP = 256  # rows of a parquet row group

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class PlainRow:
    """A row without its filling.

    Args:
        tokens: ids of its samples with their padding, int32 [n].
        mask: 1 at every id that is to be predicted, uint8 [n].
        starts: where each sample starts, and n at the end.
        lengths: of the samples, padding not counted.
    """

    tokens: Tokens
    mask: npt.NDArray[np.uint8]
    starts: list[int]
    lengths: list[int]


def export_dataset(prefix: Path, output: Path, trainer: Trainer, overwrite: bool) -> Counter[str]:
    """Write a dataset for another trainer.

    Args:
        prefix: of the dataset.
        output: ``.npy`` for Megatron-Bridge, ``.parquet`` for TRL.
        trainer: which.
        overwrite: replace a file that exists.

    Returns:
        What was written, by name.

    Raises:
        InputError: no such dataset or trainer, it holds no rows, or the output's name is taken
            or has another ending.
    """
    if trainer not in _WRITERS:
        raise wrong_choice(f"--trainer {trainer}", get_args(Trainer))
    ending, write = _WRITERS[trainer]
    if output.suffix != ending:
        raise InputError(f"--output {output}: {trainer} reads {ending} files: name it so")
    if output.exists() and not overwrite:
        raise InputError(f"--output {output} exists: pass --overwrite to replace it")
    manifest = read_manifest(prefix)
    if not manifest.rows:
        raise InputError(f"{prefix} holds no rows: there is nothing to export")
    return write(output, manifest, plain_rows(prefix, manifest))


def plain_rows(prefix: Path, manifest: Manifest) -> Iterator[PlainRow]:
    """Yield a dataset's rows in their order on disk."""
    shape = (manifest.rows, manifest.seq_length)
    dtype = token_dtype(manifest.vocab_size)
    tokens = np.memmap(part_path(prefix, ".bin"), dtype, "r", shape=shape)
    masks = np.memmap(part_path(prefix, "_loss_mask.bin"), np.uint8, "r", shape=shape)
    samples = np.load(part_path(prefix, "_samples.npy"), mmap_mode="r")
    padded = sequence_lengths(part_path(prefix, ".idx"))
    ends = np.cumsum(np.bincount(samples["row"], minlength=manifest.rows))
    first = 0
    for row, end in enumerate(ends.tolist()):
        lengths = samples["length"][first:end]
        is_sample = lengths > 0  # the last sequence may be the row's filling
        starts = [0, *np.cumsum(padded[first:end][is_sample]).tolist()]
        used = slice(0, starts[-1])
        yield PlainRow(
            tokens[row, used].astype(np.int32),
            masks[row, used],
            starts,
            lengths[is_sample].tolist(),
        )
        first = end


def bridge_row(row: PlainRow, eos_id: int) -> tuple[dict[str, Any], int]:
    """Return a row as Megatron-Bridge's ``GPTSFTPackedDataset`` reads it.

    It cuts the last token of each sample off for the inputs, and the first for the labels;
    ``loss_mask`` is aligned to the inputs: 1 where the next token is to be predicted. So each
    sample gets one more token, and the reader's rows are exactly these. It takes end-of-sequence
    for padding, and gives no loss behind one.

    Returns:
        (``input_ids`` int32, ``loss_mask`` uint8, ``seq_start_id``; trained tokens that lose
        their loss in the reader, since they follow an end-of-sequence).
    """
    count = len(row.tokens) + len(row.lengths)
    ids = np.full(count, eos_id, np.int32)
    mask = np.zeros(count, np.uint8)
    starts = [start + index for index, start in enumerate(row.starts)]
    for place, start, length in zip(starts[:-1], row.starts[:-1], row.lengths, strict=True):
        own = slice(start, start + length)
        ids[place : place + length] = row.tokens[own]
        mask[place : place + length - 1] = row.mask[own][1:]
    behind_end = int(mask[ids == eos_id].sum())
    return {"input_ids": ids, "loss_mask": mask, "seq_start_id": starts[:-1]}, behind_end


def trl_row(row: PlainRow) -> dict[str, Any]:
    """Return a row as TRL's ``SFTTrainer`` reads it: padding left out, labels as its model shifts.

    ``seq_lengths`` tell it where samples start, so that none sees another.
    """
    places = np.concatenate(
        [
            np.arange(start, start + length)
            for start, length in zip(row.starts[:-1], row.lengths, strict=True)
        ]
    )
    ids, mask = row.tokens[places], row.mask[places]
    return {
        "input_ids": ids,
        "labels": np.where(mask == 1, ids, np.int32(NO_LOSS)),
        "seq_lengths": row.lengths,
    }


def _write_bridge(output: Path, manifest: Manifest, rows: Iterator[PlainRow]) -> Counter[str]:
    """Write an array of dicts, and beside it the metadata that ``pad_cu_seqlens`` needs."""
    found: Counter[str] = Counter()
    packed = np.empty(manifest.rows, object)
    longest = most = 0
    shortest_row = manifest.seq_length
    for index, row in enumerate(_shown(rows, manifest, output)):
        packed[index], behind_end = bridge_row(row, manifest.eos_id)
        _count(found, row)
        if behind_end:
            found[BEHIND_END] += behind_end
        sizes = np.diff(row.starts)
        longest, most = max(longest, int(sizes.max())), max(most, len(sizes))
        shortest_row = min(shortest_row, row.starts[-1])
    metadata = {
        "dataset_max_seqlen": longest,
        "max_samples_per_bin": most,
        "packing_factor": round(manifest.samples / manifest.rows, 2),
        "packing_efficiency": round(100 * manifest.packing_efficiency, 2),
        "pack_size": manifest.seq_length,
        "min_packed_seqlen": shortest_row,
    }
    with atomic_file(output, "wb") as stream:
        np.save(stream, packed, allow_pickle=True)
    with atomic_file(output.with_suffix(".metadata.json")) as stream:
        json.dump([metadata], stream, indent=2)
    return found


def _write_trl(output: Path, manifest: Manifest, rows: Iterator[PlainRow]) -> Counter[str]:
    """Write row groups one after the other, in bounded memory."""
    found: Counter[str] = Counter()
    columns = ("input_ids", "labels", "seq_lengths")
    schema = pyarrow.schema([(name, pyarrow.list_(pyarrow.int32())) for name in columns])
    with (
        atomic_file(output, "wb") as stream,
        pyarrow.parquet.ParquetWriter(stream, schema) as writer,
    ):
        group: list[dict[str, Any]] = []
        for row in _shown(rows, manifest, output):
            group.append(trl_row(row))
            _count(found, row)
            if len(group) == ROWS_A_GROUP:
                writer.write_table(pyarrow.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pyarrow.Table.from_pylist(group, schema))
    return found


def _shown(rows: Iterator[PlainRow], manifest: Manifest, output: Path) -> Iterator[PlainRow]:
    with progress_bar(total=manifest.rows, desc=output.name, unit=" rows") as progress:
        for row in rows:
            yield row
            progress.update()


def _count(found: Counter[str], row: PlainRow) -> None:
    found["rows"] += 1
    found["samples"] += len(row.lengths)
    found["tokens"] += sum(row.lengths)
    found["trained tokens"] += int(row.mask.sum())


_Writer = Callable[[Path, Manifest, Iterator[PlainRow]], Counter[str]]
_WRITERS: dict[str, tuple[str, _Writer]] = {
    "megatron-bridge": (".npy", _write_bridge),
    "trl": (".parquet", _write_trl),
}
