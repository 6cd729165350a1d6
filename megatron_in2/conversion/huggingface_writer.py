"""Writes safetensors shards tensor by tensor; the library's own writer needs a whole shard.

A file is 8 bytes of header length (little-endian), the header as JSON padded with spaces to a
multiple of 8, then the tensors' bytes in the header's order. Example: one float32 tensor of
shape [2, 3] takes 24 bytes of data, at ``data_offsets`` [0, 24].
"""

import json
import math
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_in2.conversion.huggingface_reader import INDEX, SINGLE
from megatron_in2.files import write_json

_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


@dataclass(frozen=True)
class TensorSpec:
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its data."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_huggingface_tensors(
    folder: Path, specs: list[TensorSpec], tensors: Iterator[torch.Tensor], shard_bytes: int
) -> None:
    """Write tensors to shards of at most ``shard_bytes`` (or one tensor), and their index.

    Args:
        folder: an existing directory.
        specs: what is written, in order.
        tensors: the tensors, one for each spec, taken one at a time.
        shard_bytes: largest data size of a file.
    """
    shards = _fill_shards(specs, shard_bytes)
    if len(shards) == 1:
        _write_file(folder / SINGLE, shards[0], tensors)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(folder / file, shard, tensors)
        weight_map.update({spec.name: file for spec in shard})
    total = sum(spec.nbytes for spec in specs)
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _fill_shards(specs: list[TensorSpec], shard_bytes: int) -> list[list[TensorSpec]]:
    shards: list[list[TensorSpec]] = [[]]
    filled = 0
    for spec in specs:
        if shards[-1] and filled + spec.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(spec)
        filled += spec.nbytes
    return shards


def _write_file(path: Path, specs: list[TensorSpec], tensors: Iterator[torch.Tensor]) -> None:
    with open(path, "wb") as stream:
        stream.write(_header(specs))
        for spec in specs:
            tensor = next(tensors)
            assert (tuple(tensor.shape), tensor.dtype) == (spec.shape, spec.dtype), spec
            stream.write(tensor.contiguous().view(torch.uint8).numpy().data)
        stream.flush()
        os.fsync(stream.fileno())


def _header(specs: list[TensorSpec]) -> bytes:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": _DTYPES[spec.dtype],
            "shape": spec.shape,
            "data_offsets": (offset, offset + spec.nbytes),
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
