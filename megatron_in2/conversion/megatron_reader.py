"""Reads a distributed checkpoint's weights one tensor at a time, with no process group.

Megatron-Core's ``torch_dist`` format is torch's distributed checkpoint: a metadata file that
knows every stored chunk, and files that hold them. Here one layer's slice of the stacked tensor
of all layers is read through torch's own reader, whatever chunks it was saved in.
"""

from pathlib import Path
from pickle import UnpicklingError

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

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import tensor_table
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.errors import InputError

OPTIMIZER_PREFIX = "optimizer."


class MegatronReader:
    """The weights of one complete step.

    Raises:
        InputError: a file is missing or shorter than the metadata says, a tensor of the
            architecture is missing, or there is one it lacks.
    """

    def __init__(self, step: Path, config: ModelConfig) -> None:
        self._step = step
        self._vocab_size = config.vocab_size
        self._reader = FileSystemReader(step)
        metadata = self._read_metadata()
        self._reader.set_up_storage_reader(metadata, is_coordinator=True)
        self._require_whole_files(metadata)
        stored = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata) and not key.startswith(OPTIMIZER_PREFIX)
        }
        table = tensor_table(config)
        renamed = {mapping.alias: mapping.key for mapping in table if mapping.alias in stored}
        self._stored_name = {key: alias for alias, key in renamed.items()}
        self._stored = {renamed.get(key, key): entry for key, entry in stored.items()}
        wanted = {mapping.key for mapping in table}
        if missing := wanted - set(self._stored):
            raise InputError(f"{step}: tensors are missing: {sorted(missing)[:5]}")
        if extra := set(self._stored) - wanted:
            raise InputError(f"{step}: tensors that the architecture lacks: {sorted(extra)[:5]}")

    def _read_metadata(self) -> Metadata:
        try:
            return self._reader.read_metadata()
        except (OSError, UnpicklingError, EOFError) as error:
            raise InputError(
                f"{self._step}/.metadata is not readable ({error}): take another step"
            ) from error

    def _require_whole_files(self, metadata: Metadata) -> None:
        ends: dict[str, int] = {}
        for place in metadata.storage_data.values():
            end = place.offset + place.length
            ends[place.relative_path] = max(end, ends.get(place.relative_path, 0))
        for name, end in sorted(ends.items()):
            path = self._step / name
            size = path.stat().st_size if path.is_file() else None
            if size is None or size < end:
                found = "is missing" if size is None else f"has {size} of {end} bytes"
                raise InputError(f"{path} {found}: the checkpoint is damaged; take another step")

    def dtype(self, mapping: TensorMapping) -> torch.dtype:
        """Return the dtype that a tensor is stored in."""
        return self._stored[mapping.key].properties.dtype

    def read(self, mapping: TensorMapping) -> torch.Tensor:
        """Read one tensor, padded vocabulary rows left out.

        Raises:
            InputError: it has another shape than the architecture gives it, or is damaged.
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
        name = self._stored_name.get(mapping.key, mapping.key)
        items = create_read_items_for_chunk_list(name, entry, [chunk])
        plan = self._reader.prepare_local_plan(LoadPlan(items))
        try:
            self._reader.read_data(plan, _IntoOneTensor(target)).wait()
        except (RuntimeError, UnpicklingError, EOFError) as error:
            raise InputError(
                f"{self._step}: tensor {name} is damaged ({str(error).splitlines()[0]}): take "
                "another step"
            ) from error
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
