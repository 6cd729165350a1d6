"""The packed dataset at a prefix P: its files, its records, and the manifest that seals it.

P.bin, P.idx                      token ids: one document = one row, one sequence = one sample
P_loss_mask.bin, P_loss_mask.idx  the twin, uint8, target-aligned
P_samples.npy                     one record a sequence (SAMPLE_RECORD)
P_rows.npy                        one record a row (ROW_RECORD)
P.json                            the manifest, written last
"""

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, sha256_of_file, write_json

FORMAT_VERSION = 1
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

    ``files`` maps each part to its size in bytes and its SHA-256.
    """

    tokenizer_sha256: str
    vocab_size: int
    template: str
    template_sha256: str
    design: str
    seq_length: int
    pad_multiple: int
    kinds: list[str]
    rows: int
    samples: int
    tokens: int
    learnt_tokens: int
    samples_by_kind: dict[str, int]
    dropped: dict[str, int]
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def packing_efficiency(self) -> float:
        """Share of the rows' tokens that belong to samples, their own padding not counted."""
        return self.tokens / max(self.rows * self.seq_length, 1)

    @property
    def learnt_fraction(self) -> float:
        """Share of the samples' tokens that are learnt."""
        return self.learnt_tokens / max(self.tokens, 1)


def describe_files(prefix: Path) -> dict[str, dict[str, Any]]:
    """Measure every part of a dataset: size and SHA-256."""
    return {
        part: {
            "bytes": part_path(prefix, part).stat().st_size,
            "sha256": sha256_of_file(part_path(prefix, part)),
        }
        for part in PARTS
    }


def write_manifest(prefix: Path, manifest: Manifest) -> None:
    """Seal a dataset."""
    write_json(part_path(prefix, ".json"), asdict(manifest))


def read_manifest(prefix: Path) -> Manifest:
    """Read a dataset's manifest and compare the sizes of its files; no content is read.

    Raises:
        InputError: there is no complete dataset of this format at the prefix.
    """
    path = part_path(prefix, ".json")
    if not path.is_file():
        raise InputError(f"no packed dataset at {prefix}: {path} is missing; run preprocess_in2.py")
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
        raise InputError(f"{path}: not a manifest of format version {FORMAT_VERSION}")
    known = {item.name for item in fields(Manifest)}
    if set(values) != known:
        raise InputError(f"{path}: fields differ from this version's; preprocess again")
    manifest = Manifest(**values)
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
