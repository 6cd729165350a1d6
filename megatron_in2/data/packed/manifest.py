"""The packed dataset at a prefix P: its files, its records, and the manifest that seals it.

P.bin, P.idx                      token ids: one document = one row, one sequence = one sample
P_loss_mask.bin, P_loss_mask.idx  the twin, uint8, target-aligned
P_samples.npy                     one record a sequence (SAMPLE_RECORD)
P_rows.npy                        one record a row (ROW_RECORD)
P.json                            the manifest, written last
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, sha256_of_file, sha256_of_text, write_json
from megatron_in2.templates.base import Template
from megatron_in2.templates.load import template_of_values

FORMAT_VERSION = 3
READABLE_VERSIONS = (2, 3)
HISTOGRAM_BINS = 16
PADDING_KIND = "pad"

# 8 + 8 + 4 + 4 + 4 + 4 + 1, no alignment padding: 33 bytes a sequence.
SAMPLE_RECORD = np.dtype(
    [
        ("row", np.int64),
        ("id_hash", np.uint64),
        ("length", np.int32),  # tokens without padding; 0 for the row's last filling
        ("learnt_spans", np.int32),
        ("learnt_tokens", np.int32),
        ("evidence_position", np.float32),  # 0 start to 1 end of the context; NaN if unknown
        ("kind", np.uint8),  # index into the manifest's kinds
    ]
)
ROW_RECORD = np.dtype(
    [
        ("attention_cost", np.int64),  # sum of squared true lengths
        ("learnt_tokens", np.int32),
    ]
)


def part_path(prefix: Path, part: str) -> Path:
    """Return the path of one file of the dataset: ``part`` is what follows the prefix."""
    return prefix.with_name(prefix.name + part)


PARTS = (".bin", ".idx", "_loss_mask.bin", "_loss_mask.idx", "_samples.npy", "_rows.npy")


@dataclass(frozen=True)
class Manifest:
    """What a dataset was made of and how large it is.

    Args:
        tokenizer: what the tokenizer was called, and its hash and size follow.
        tokenizer_sha256: hash of the tokenizer's model file.
        vocab_size: ids are below it.
        bos_id: begins every sample; None where the tokenizer has none.
        eos_id: ends every trained turn.
        pad_id: fills samples and rows.
        template: name of the instruction template, and its hash and fields follow.
        template_sha256: hash of the template's wording.
        template_wording: the template's fields.
        design: which parts are trained on.
        seq_length: tokens of a row.
        pad_multiple: what each sample is padded to a multiple of.
        shard: "i/n" where only a part of the input was taken, else None.
        kinds: names behind the kind codes.
        rows: number of rows.
        samples: number of samples.
        tokens: the samples' tokens, padding not counted.
        learnt_tokens: those of them that are trained on.
        samples_by_kind: samples of each kind.
        dropped: samples left out, by reason.
        rejected: records that could not be used, by reason.
        notes: what else is worth knowing, counted.
        histograms: samples by length (0 to seq_length) and by evidence position (0 to 1), each in
            equal bins.
        files: each part's size in bytes and SHA-256.
        learnt_by_kind: trained tokens of each kind.
        packing: whether a row may hold several samples.
        seed: of the order in which samples were packed.
        unit_rows: rows of each balanced unit, in which the order of training permutes the rows;
            0 in format 2, whose rows are permuted one by one.
        inputs: size and content hash of each input file.
        stores: content hashes of each segment store.
        format_version: of these files.
        seal: hash of all the other fields.
    """

    tokenizer: str
    tokenizer_sha256: str
    vocab_size: int
    bos_id: int | None
    eos_id: int
    pad_id: int
    template: str
    template_sha256: str
    template_wording: dict[str, Any]
    design: str
    seq_length: int
    pad_multiple: int
    shard: str | None
    kinds: list[str]
    rows: int
    samples: int
    tokens: int
    learnt_tokens: int
    samples_by_kind: dict[str, int]
    dropped: dict[str, int]
    rejected: dict[str, int]
    notes: dict[str, int]
    histograms: dict[str, list[int]] = field(default_factory=dict)
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    learnt_by_kind: dict[str, int] = field(default_factory=dict)
    packing: bool = True
    seed: int = 0
    unit_rows: int = 0
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    seal: str = ""

    def sealed(self) -> "Manifest":
        """Return this manifest with its seal."""
        return replace(self, seal=_seal(asdict(self)))

    def template_object(self) -> Template:
        """Return the template whose wording the manifest holds."""
        return template_of_values(self.template_wording)

    @property
    def packing_efficiency(self) -> float:
        """Share of the rows' tokens that belong to samples, their own padding not counted."""
        return self.tokens / max(self.rows * self.seq_length, 1)

    @property
    def learnt_fraction(self) -> float:
        """Share of the samples' tokens that are trained on."""
        return self.learnt_tokens / max(self.tokens, 1)


_SINCE_VERSION_3 = {"learnt_by_kind", "packing", "seed", "unit_rows", "inputs", "stores"}


def _seal(values: dict[str, Any]) -> str:
    return sha256_of_text(json.dumps({**values, "seal": ""}, sort_keys=True))


def write_manifest(
    prefix: Path, manifest: Manifest, hashes: Mapping[str, str] | None = None
) -> Manifest:
    """Measure the files at a prefix, and seal the manifest that describes them.

    Args:
        prefix: where the files lie.
        manifest: without files, histograms and seal.
        hashes: SHA-256 of the parts whose hash is known already; the others are read.

    Returns:
        The manifest as it was written.
    """
    known = hashes or {}
    files = {
        part: {
            "bytes": part_path(prefix, part).stat().st_size,
            "sha256": known.get(part) or sha256_of_file(part_path(prefix, part)),
        }
        for part in PARTS
    }
    histograms = _histograms(prefix, manifest.seq_length)
    complete = replace(manifest, files=files, histograms=histograms).sealed()
    write_json(part_path(prefix, ".json"), asdict(complete))
    return complete


def _histograms(prefix: Path, seq_length: int) -> dict[str, list[int]]:
    records = np.load(part_path(prefix, "_samples.npy"), mmap_mode="r")
    lengths, positions = records["length"], records["evidence_position"]
    return {
        name: np.histogram(values, HISTOGRAM_BINS, (0, top))[0].tolist()
        for name, values, top in (
            ("length", lengths[lengths > 0], seq_length),
            ("evidence_position", positions[~np.isnan(positions)], 1),
        )
    }


def read_manifest(prefix: Path) -> Manifest:
    """Read a dataset's manifest and compare the sizes of its files; no content is read.

    Raises:
        InputError: there is no complete dataset of this format at the prefix.
    """
    path = part_path(prefix, ".json")
    if not path.is_file():
        raise InputError(f"no packed dataset at {prefix}: {path} is missing; run in2 preprocess")
    values = read_json(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if version not in READABLE_VERSIONS:
        raise InputError(
            f"{path}: not a manifest of format version {' or '.join(map(str, READABLE_VERSIONS))}; "
            "preprocess again"
        )
    known = {item.name for item in fields(Manifest)} - (_SINCE_VERSION_3 if version == 2 else set())
    if set(values) != known:
        raise InputError(f"{path}: fields differ from this version's; preprocess again")
    manifest = Manifest(**values)
    if _seal(values) != manifest.seal:
        raise InputError(f"{path} was changed after it was written: preprocess again")
    for part in PARTS:
        file = part_path(prefix, part)
        if not file.is_file():
            raise InputError(f"{file} is missing: the dataset is incomplete; preprocess again")
        size, expected = file.stat().st_size, manifest.files[part]["bytes"]
        if size != expected:
            raise InputError(
                f"{file} has {size} bytes, its manifest says {expected}: preprocess again"
            )
    return manifest
