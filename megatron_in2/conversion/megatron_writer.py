"""Writes a distributed checkpoint's weights layer by layer, with no process group.

Megatron-Core's ``torch_dist`` format is torch's distributed checkpoint with two small files
beside it (``metadata.json``, ``common.pt``), so torch's own writer makes it. Each layer plays the
part of one saving rank with one file: only its tensors are in memory while it is written.
"""

import contextlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, cast

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import (
    DEFAULT_SUFFIX,
    FileSystem,
    FileSystemWriter,
)
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)

from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.checkpoint.integrity import FileSum, HashingStream


def write_megatron_tensors(
    step: Path,
    table: Iterable[TensorMapping],
    num_layers: int,
    dtype_of: Callable[[TensorMapping], torch.dtype],
    tensors: Iterator[torch.Tensor],
) -> dict[str, FileSum]:
    """Write every tensor of the table to an existing, empty step folder.

    Args:
        step: the folder.
        table: what is written, layer by layer.
        num_layers: layers of the model: the length of the stacked tensors' leading axis.
        dtype_of: the dtype of a tensor, the same for all layers of one key.
        tensors: those of the table, in its order, each taken when its turn comes.

    Returns:
        Size and hash of the files that hold tensors, which are on disk.
    """
    items = [(each, _write_item(each, num_layers, dtype_of(each))) for each in table]
    groups = groupby(items, key=lambda pair: pair[0].layer)
    local_plans = [SavePlan([item for _, item in group]) for _, group in groups]
    planner = _OneByOne(zip((item for _, item in items), tensors, strict=True))
    # No copy ahead: torch would take tensors out of order where there is a GPU.
    writer = FileSystemWriter(step, thread_count=1, per_thread_copy_ahead=0)
    writer.fs = files = _HashedFiles()
    writer.set_up_storage_writer(is_coordinator=True)
    plans = writer.prepare_global_plan([writer.prepare_local_plan(plan) for plan in local_plans])
    results = [writer.write_data(plan, planner).wait() for plan in plans]
    writer.finish(Metadata(_stored(item for _, item in items)), results)
    torch.save({}, step / "common.pt")
    save_config(CheckpointingConfig("torch_dist"), str(step))
    return {name: sum for name, sum in files.sums.items() if name.endswith(DEFAULT_SUFFIX)}


class _HashedFiles(FileSystem):
    """Hashes every file that torch's writer writes."""

    def __init__(self) -> None:
        self.sums: dict[str, FileSum] = {}

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[io.IOBase]:
        with super().create_stream(path, mode) as stream:
            if mode != "wb":
                yield stream
                return
            hashed = HashingStream(cast(IO[bytes], stream))
            yield cast(io.IOBase, hashed)
            self.sums[Path(path).name] = hashed.sum


class _OneByOne(DefaultSavePlanner):
    """Hands torch's writer each tensor only when it is about to be written."""

    def __init__(self, tensors: Iterator[tuple[WriteItem, torch.Tensor]]) -> None:
        super().__init__()
        self._tensors = tensors

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor:
        expected, tensor = next(self._tensors)
        assert write_item.index == expected.index, (write_item.index, expected.index)
        assert write_item.tensor_data is not None
        return tensor.view(write_item.tensor_data.chunk.sizes)


def _write_item(mapping: TensorMapping, num_layers: int, dtype: torch.dtype) -> WriteItem:
    layer = [] if mapping.layer is None else [mapping.layer]
    one, all_layers = ([1], [num_layers]) if layer else ([], [])
    chunk = ChunkStorageMetadata(
        offsets=torch.Size([*layer, *(0 for _ in mapping.shape)]),
        sizes=torch.Size([*one, *mapping.shape]),
    )
    return WriteItem(
        index=MetadataIndex(mapping.key, chunk.offsets),
        type=WriteItemType.SHARD,
        tensor_data=TensorWriteData(
            chunk=chunk,
            properties=TensorProperties(dtype=dtype),
            size=torch.Size([*all_layers, *mapping.shape]),
        ),
    )


def _stored(items: Iterable[WriteItem]) -> dict[str, STORAGE_TYPES]:
    """Describe each key and the chunks it is stored in."""
    stored: dict[str, STORAGE_TYPES] = {}
    for item in items:
        data = item.tensor_data
        assert data is not None
        entry = stored.setdefault(
            item.index.fqn, TensorStorageMetadata(data.properties, data.size, [])
        )
        assert isinstance(entry, TensorStorageMetadata)
        entry.chunks.append(data.chunk)
    return stored
