"""Joins datasets, a run's shards or others, into one whose rows are packed and mixed anew.

The result holds the same rows as a run over all the samples at once would.
"""

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.describe import counts_of
from megatron_in2.data.packed.manifest import (
    FORMAT_VERSION,
    PADDING_KIND,
    PARTS,
    Manifest,
    part_path,
    read_manifest,
    write_manifest,
)
from megatron_in2.data.packed.row_files import MASK, TOKENS, sequence_lengths
from megatron_in2.data.packing.collect import MAX_KINDS
from megatron_in2.data.packing.config import require_absent
from megatron_in2.data.packing.encoding.encode import StoreRun
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.data.packing.rows.balance import UNIT_ROWS
from megatron_in2.data.packing.rows.plan import RowShape
from megatron_in2.data.packing.rows.pool import POOL_RECORD, PooledSample
from megatron_in2.data.packing.rows.writer import Packing, write_rows
from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text
from megatron_in2.shards import Shard
from megatron_in2.tokenizers.base import token_dtype

_ALIKE = ("tokenizer_sha256", "template_sha256", "design", "seq_length", "pad_multiple", "packing")
_COUNTERS = ("dropped", "rejected", "notes")


def merge_datasets(
    output_prefix: Path, inputs: list[Path], overwrite: bool = False, seed: int = 0
) -> Manifest:
    """Join datasets into one; datasets of a run's shards must all be there.

    A merge that was killed continues when it is started again.

    Args:
        output_prefix: of the merged dataset.
        inputs: prefixes of the datasets, or their manifests; some may hold no samples.
        overwrite: replace a dataset that exists.
        seed: of the order in which samples are packed; the datasets' own does not matter.

    Returns:
        The merged dataset's manifest.

    Raises:
        InputError: a dataset is missing, was made otherwise than the first, or holds a sample
            that another holds too; or all are empty.
    """
    prefixes = [path.with_suffix("") if path.suffix == ".json" else path for path in inputs]
    require_absent(output_prefix, overwrite)
    manifests = {prefix: read_manifest(prefix) for prefix in prefixes}
    ordered = sorted(manifests.items(), key=lambda item: _shard_index(item[1]))
    _require_alike(ordered)
    seals = [manifest.seal for _, manifest in ordered]
    fingerprint = sha256_of_text(json.dumps([*seals, seed, FORMAT_VERSION]))
    partial = PartialOutput(output_prefix, fingerprint, overwrite)
    with partial.opened() as state:
        if not partial.published_before():
            _write(ordered, partial, output_prefix, seed, state or {})
    return read_manifest(output_prefix)


def _write(
    datasets: list[tuple[Path, Manifest]],
    partial: PartialOutput,
    output_prefix: Path,
    seed: int,
    state: dict[str, Any],
) -> None:
    first = datasets[0][1]
    source = PackedSamples(datasets)
    _require_samples_once(source.records)
    packing = Packing(
        RowShape(first.seq_length, first.pad_multiple),
        seed,
        first.packing,
        first.pad_id,
        np.dtype(token_dtype(first.vocab_size)),
    )
    growing = partial.folder / output_prefix.name
    sequences, hashes = write_rows(
        growing,
        source,
        packing,
        _own_ids,
        lambda rows: partial.record({"rows": rows}, {}),
        state.get("rows", 0),
    )
    source.close()
    counts = counts_of(sequences, source.kinds)
    merged = _merged([manifest for _, manifest in datasets], seed, counts)
    write_manifest(growing, merged, hashes)
    partial.publish([part_path(output_prefix, part).name for part in (*PARTS, ".json")], {})


def _own_ids(run: bytes | StoreRun) -> bytes:
    assert isinstance(run, bytes), "a packed sample refers to no store"
    return run


class PackedSamples:
    """The samples of several packed datasets, read where they lie.

    ``kinds`` are the names behind the codes in ``records``.
    """

    def __init__(self, datasets: list[tuple[Path, Manifest]]) -> None:
        names = sorted({kind for _, manifest in datasets for kind in manifest.kinds[1:]})
        if len(names) > MAX_KINDS:
            raise InputError(
                f"the datasets have {len(names)} kinds together, more than {MAX_KINDS}"
            )
        self.kinds = [PADDING_KIND, *names]
        self._itemsize = np.dtype(token_dtype(datasets[0][1].vocab_size)).itemsize
        self._files = [
            tuple(os.open(part_path(prefix, part), os.O_RDONLY) for part in (TOKENS, MASK))
            for prefix, _ in datasets
        ]
        parts = [
            self._records(number, prefix, manifest)
            for number, (prefix, manifest) in enumerate(datasets)
        ]
        self.records = np.concatenate(parts)

    def _records(self, number: int, prefix: Path, manifest: Manifest) -> npt.NDArray[np.void]:
        lengths = sequence_lengths(part_path(prefix, ".idx")).astype(np.int64)
        samples = np.load(part_path(prefix, "_samples.npy"))
        is_sample = samples["length"] > 0
        samples, starts = samples[is_sample], (np.cumsum(lengths) - lengths)[is_sample]
        records = np.empty(len(samples), POOL_RECORD)
        for name in ("id_hash", "length", "learnt_spans", "learnt_tokens", "evidence_position"):
            records[name] = samples[name]
        records["offset"], records["size"] = starts, number
        codes = np.array([self.kinds.index(kind) for kind in manifest.kinds], np.uint8)
        records["kind"] = codes[samples["kind"]]
        return records

    def read(self, index: int) -> PooledSample:
        """Return one sample."""
        record = self.records[index]
        tokens, mask = self._files[int(record["size"])]
        length, offset = int(record["length"]), int(record["offset"])
        ids = os.pread(tokens, length * self._itemsize, offset * self._itemsize)
        return PooledSample(length, (ids,), _spans(os.pread(mask, length, offset)))

    def close(self) -> None:
        """Close the datasets' files."""
        for pair in self._files:
            for descriptor in pair:
                os.close(descriptor)


def _spans(mask: bytes) -> tuple[tuple[int, int], ...]:
    """Return the [start, end) runs of ones."""
    spans = []
    end = 0
    while (start := mask.find(b"\x01", end)) >= 0:
        end = mask.find(b"\x00", start)
        if end < 0:
            end = len(mask)
        spans.append((start, end))
    return tuple(spans)


def _shard_index(manifest: Manifest) -> int:
    return Shard.from_label(manifest.shard).index if manifest.shard else 0


def _require_alike(datasets: list[tuple[Path, Manifest]]) -> None:
    first_prefix, first = datasets[0]
    for prefix, manifest in datasets:
        for name in _ALIKE:
            ours, theirs = getattr(first, name), getattr(manifest, name)
            if ours != theirs:
                raise InputError(
                    f"{prefix} has {name} {theirs}, {first_prefix} has {ours}: only datasets "
                    "made alike can be merged"
                )
    shards = [Shard.from_label(manifest.shard) for _, manifest in datasets if manifest.shard]
    if shards:
        count = shards[0].count
        wanted = [Shard(index, count).label for index in range(count)]
        found = [shard.label for shard in shards]
        if found != wanted or len(shards) != len(datasets):
            missing = sorted(set(wanted) - set(found))
            raise InputError(
                f"the shards are {', '.join(found)}, each of {count} must be there once"
                + (f"; missing: {', '.join(missing)}" if missing else "")
            )


def _require_samples_once(records: npt.NDArray[np.void]) -> None:
    if not len(records):
        raise InputError("the datasets hold no samples: there is nothing to merge")
    values = np.sort(records["id_hash"])
    if repeated := int((values[1:] == values[:-1]).sum()):
        raise InputError(
            f"{repeated:,} samples are in more than one of the datasets: are shards of "
            "different runs among them?"
        )


def _merged(manifests: list[Manifest], seed: int, counts: dict[str, Any]) -> Manifest:
    counters: dict[str, Any] = {
        name: dict(sum((Counter(getattr(item, name)) for item in manifests), Counter[str]()))
        for name in _COUNTERS
    }
    sources: dict[str, Any] = {
        name: {key: value for item in manifests for key, value in getattr(item, name).items()}
        for name in ("inputs", "stores")
    }
    return replace(
        manifests[0],
        shard=None,
        seed=seed,
        unit_rows=UNIT_ROWS,
        format_version=FORMAT_VERSION,
        **counters,
        **sources,
        **counts,
    )
