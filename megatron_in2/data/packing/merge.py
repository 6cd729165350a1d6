"""Joins the datasets of a run's shards into one."""

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.data.packed.manifest import (
    PARTS,
    Manifest,
    part_path,
    read_manifest,
    write_manifest,
)
from megatron_in2.data.packed.row_files import RowFiles, sequence_lengths
from megatron_in2.data.packing.config import require_free
from megatron_in2.data.packing.partial_output import PartialOutput
from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_text
from megatron_in2.progress import progress_bar
from megatron_in2.shards import Shard
from megatron_in2.tokenizers.base import token_dtype

_ALIKE = ("tokenizer_sha256", "template_sha256", "design", "seq_length", "pad_multiple")
_COUNTERS = ("samples_by_kind", "dropped", "rejected", "notes")
_SUMS = ("rows", "samples", "tokens", "learnt_tokens")


def merge_datasets(output_prefix: Path, inputs: list[Path], overwrite: bool = False) -> Manifest:
    """Join datasets into one; datasets of a run's shards must all be there.

    Args:
        output_prefix: of the merged dataset.
        inputs: prefixes of the datasets, or their manifests.
        overwrite: replace a dataset that exists.

    Returns:
        The merged dataset's manifest.

    Raises:
        InputError: a dataset is missing, was made otherwise than the first, or holds a sample
            that another holds too.
    """
    prefixes = [path.with_suffix("") if path.suffix == ".json" else path for path in inputs]
    require_free([output_prefix], overwrite)
    manifests = {prefix: read_manifest(prefix) for prefix in prefixes}
    ordered = sorted(manifests.items(), key=lambda item: _shard_index(item[1]))
    _require_alike(ordered)
    _require_no_duplicates([prefix for prefix, _ in ordered])
    fingerprint = sha256_of_text(json.dumps([manifest.seal for _, manifest in ordered]))
    partial = PartialOutput(output_prefix, fingerprint)
    with partial.opened():
        if not partial.published_before():
            growing = partial.folder / output_prefix.name
            kinds = _append_all(ordered, growing)
            write_manifest(growing, _merged([manifest for _, manifest in ordered], kinds))
            partial.publish([part_path(output_prefix, part).name for part in (*PARTS, ".json")])
    return read_manifest(output_prefix)


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


def _require_no_duplicates(prefixes: list[Path]) -> None:
    hashes = []
    for prefix in prefixes:
        records = np.load(part_path(prefix, "_samples.npy"), mmap_mode="r")
        hashes.append(records["id_hash"][records["length"] > 0])
    values = np.sort(np.concatenate(hashes))
    if repeated := int((values[1:] == values[:-1]).sum()):
        raise InputError(
            f"{repeated:,} samples stand in more than one of the datasets: are shards of "
            "different runs among them?"
        )


def _append_all(datasets: list[tuple[Path, Manifest]], growing: Path) -> list[str]:
    """Write all datasets behind one another; return the names behind the new kind codes."""
    dtype = token_dtype(datasets[0][1].vocab_size)
    files = RowFiles(growing, dtype)
    kinds = list(datasets[0][1].kinds)
    rows = 0
    for prefix, manifest in progress_bar(datasets, desc="merge", unit=" datasets"):
        kinds += [kind for kind in manifest.kinds if kind not in kinds]
        codes = np.array([kinds.index(kind) for kind in manifest.kinds], np.uint8)
        samples = np.load(part_path(prefix, "_samples.npy"))
        samples["row"] += rows
        samples["kind"] = codes[samples["kind"]]
        for part in (".bin", "_loss_mask.bin"):
            with open(part_path(prefix, part), "rb") as stream:
                shutil.copyfileobj(stream, files.stream(part), 1 << 22)
        lengths = sequence_lengths(part_path(prefix, ".idx"))
        files.append(b"", b"", lengths, samples, np.load(part_path(prefix, "_rows.npy")))
        rows += manifest.rows
    files.finish()
    return kinds


def _merged(manifests: list[Manifest], kinds: list[str]) -> Manifest:
    first = manifests[0]
    counters: dict[str, Any] = {
        name: dict(sum((Counter(getattr(item, name)) for item in manifests), Counter[str]()))
        for name in _COUNTERS
    }
    sums: dict[str, Any] = {name: sum(getattr(item, name) for item in manifests) for name in _SUMS}
    return replace(first, shard=None, kinds=kinds, **counters, **sums)
