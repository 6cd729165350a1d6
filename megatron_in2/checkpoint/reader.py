"""Reads a distributed checkpoint's weights one tensor at a time, with no process group.

Megatron-Core's ``torch_dist`` format is torch's distributed checkpoint: a metadata file that
knows every stored chunk, and files that hold them. Here one layer's slice of the stacked tensor
of all layers is read through torch's own reader, whatever chunks it was saved in.
"""

from pathlib import Path

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, ReadItem
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list

from megatron_in2.checkpoint.names import Mapping, mappings
from megatron_in2.errors import InputError
from megatron_in2.model.config import ModelConfig

OPTIMIZER_PREFIX = "optimizer."


class CheckpointReader:
    """The weights of one complete step.

    Raises:
        InputError: a tensor of the architecture is missing, or there is one it lacks.
    """

    def __init__(self, step: Path, config: ModelConfig) -> None:
        self._step = step
        self._vocab_size = config.vocab_size
        self._reader = FileSystemReader(step)
        metadata: Metadata = self._reader.read_metadata()
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self._stored = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and not key.startswith(OPTIMIZER_PREFIX)
        }
        wanted = {mapping.key for mapping in mappings(config)}
        if missing := wanted - set(self._stored):
            raise InputError(f"{step}: tensors are missing: {sorted(missing)[:5]}")
        if extra := set(self._stored) - wanted:
            raise InputError(f"{step}: tensors that the architecture lacks: {sorted(extra)[:5]}")

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the weights are stored in."""
        return next(iter(self._stored.values())).properties.dtype

    def read(self, mapping: Mapping) -> torch.Tensor:
        """Read one tensor, padded vocabulary rows left out.

        Raises:
            InputError: it has another shape than the architecture gives it.
        """
        entry = self._stored[mapping.key]
        stacked = [] if mapping.layer is None else [mapping.layer]
        shape = tuple(entry.size)[len(stacked) :]
        # Only the vocabulary may be longer than it is: padded to what TP could share.
        is_padded = shape[0] > mapping.shape[0] == self._vocab_size
        if shape[1:] != mapping.shape[1:] or (shape[0] != mapping.shape[0] and not is_padded):
            raise InputError(
                f"{self._step}: tensor {mapping.key} has shape {shape}, the architecture makes it "
                f"{mapping.shape}"
            )
        offsets = torch.Size([*stacked, *(0 for _ in mapping.shape)])
        sizes = torch.Size([*(1 for _ in stacked), *mapping.shape])
        target = torch.empty(sizes, dtype=entry.properties.dtype)
        chunk = ChunkStorageMetadata(offsets=offsets, sizes=sizes)
        items = create_read_items_for_chunk_list(mapping.key, entry, [chunk])
        plan = self._reader.prepare_local_plan(LoadPlan(items))
        self._reader.read_data(plan, _IntoOneTensor(target)).wait()
        return target.view(mapping.shape)


class _IntoOneTensor(DefaultLoadPlanner):
    """Tells torch's reader where each stored chunk belongs in one target."""

    def __init__(self, target: torch.Tensor) -> None:
        super().__init__()
        self._target = target

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        view = self._target
        for axis, (start, size) in enumerate(
            zip(read_item.dest_offsets, read_item.lengths, strict=True)
        ):
            view = view.narrow(axis, start, size)
        return view

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Nothing is left to do: the view was filled in place."""
