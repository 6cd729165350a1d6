"""Reads the tensors of Hugging Face checkpoint directories, one at a time, memory-mapped."""

from collections.abc import Callable, Iterable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.errors import InputError
from megatron_in2.files import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLED_INDEX = "pytorch_model.bin.index.json"
PICKLED_SINGLE = "pytorch_model.bin"
HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"

# What safetensors calls the dtypes that weights may have; others are quantised.
_SAFETENSORS_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class _Shard(Protocol):
    """One file of tensors."""

    def names(self) -> Iterable[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def dtype(self, name: str) -> torch.dtype | str: ...
    def read(self, name: str) -> torch.Tensor: ...


class HuggingFaceReader:
    """A directory's tensors. Opening it reads every shard's header and no weights.

    Args:
        folder: the directory.
        allow_pickle: read ``pytorch_model.bin`` where there are no safetensors. Only tensors are
            unpickled (``weights_only``), yet a pickle is a program: use it on files you trust.

    Raises:
        InputError: no weights, an index that names an absent shard or tensor, or a broken file.
    """

    def __init__(self, folder: Path, allow_pickle: bool = False) -> None:
        self.folder = folder
        self._shard_of: dict[str, _Shard] = {}
        index, files = _shard_files(folder, allow_pickle)
        for file in files:
            shard = _open_shard(file)
            self._shard_of.update(dict.fromkeys(shard.names(), shard))
        if index is None:
            return
        promised = set(_weight_map(index))
        if promised != self.names:
            differing = sorted(promised ^ self.names)
            raise InputError(f"{index} and its shards disagree on tensors: {differing[:5]}")

    @property
    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._shard_of)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype that a tensor is stored in.

        Raises:
            InputError: it is not a floating-point one that models are trained in.
        """
        dtype = self._shard_of[name].dtype(name)
        if isinstance(dtype, str) or dtype not in _SAFETENSORS_DTYPES.values():
            raise InputError(
                f"{self.folder}: tensor {name} is stored as {dtype}: name a directory with "
                "float32, bfloat16 or float16 weights"
            )
        return dtype

    def require(
        self,
        table: Iterable[TensorMapping],
        is_tied: bool,
        is_derived: Callable[[str], bool] = lambda name: False,
    ) -> None:
        """Check names and shapes of all tensors against the table.

        Args:
            table: what the architecture has.
            is_tied: the LM head is the embedding, and may be stored too.
            is_derived: says of a name whether its tensor may be there and is not read.

        Raises:
            InputError: a tensor is missing, extra, or has another shape; or the LM head of a
                tied model is not its embedding.
        """
        wanted = {
            name: shape
            for mapping in table
            for name, shape in zip(mapping.names, mapping.shapes, strict=True)
        }
        if missing := sorted(set(wanted) - self.names):
            raise InputError(f"{self.folder}: tensors are missing: {', '.join(missing[:5])}")
        extra = {name for name in self.names - set(wanted) if not is_derived(name)}
        if is_tied and HEAD in extra:
            self._require_tied_head(wanted[EMBEDDING])
            extra.remove(HEAD)
        if extra:
            raise InputError(
                f"{self.folder}: tensors that the architecture lacks: "
                f"{', '.join(sorted(extra)[:5])}"
            )
        for name, shape in wanted.items():
            self._require_shape(name, shape)

    def read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Read one tensor and check its shape.

        Raises:
            InputError: it is missing or has another shape.
        """
        if name not in self._shard_of:
            raise InputError(f"{self.folder}: tensor {name} is missing")
        self._require_shape(name, shape)
        try:
            return self._shard_of[name].read(name)
        except SafetensorError as error:
            raise InputError(f"{self.folder}: tensor {name}: {error}") from error

    def _require_shape(self, name: str, shape: tuple[int, ...]) -> None:
        found = self._shard_of[name].shape(name)
        if found != shape:
            raise InputError(
                f"{self.folder}: tensor {name} has shape {found}, config.json makes it {shape}"
            )

    def _require_tied_head(self, shape: tuple[int, ...]) -> None:
        if not torch.equal(self.read(HEAD, shape), self.read(EMBEDDING, shape)):
            raise InputError(
                f"{self.folder}: config.json ties {HEAD} to {EMBEDDING}, yet they differ: set "
                "tie_word_embeddings to false there, or remove the one that is not used"
            )


def _shard_files(folder: Path, allow_pickle: bool) -> tuple[Path | None, list[Path]]:
    """Return the index, where there is one, and the files that hold the tensors."""
    layouts = [(INDEX, SINGLE), *([(PICKLED_INDEX, PICKLED_SINGLE)] if allow_pickle else [])]
    for index_name, single in layouts:
        index = folder / index_name
        if index.is_file():
            files = [folder / name for name in dict.fromkeys(_weight_map(index).values())]
            for file in files:
                if not file.is_file():
                    raise InputError(f"{index} names {file.name}, which does not exist")
            return index, files
        if (folder / single).is_file():
            return None, [folder / single]
    pickled = (folder / PICKLED_INDEX).is_file() or (folder / PICKLED_SINGLE).is_file()
    remedy = (
        f": {PICKLED_SINGLE} is a pickle, which can run code; save the model again as safetensors, "
        "or pass --allow-pickle if you trust it"
    )
    raise InputError(f"{folder} holds no {SINGLE} and no {INDEX}{remedy if pickled else ''}")


def _weight_map(index: Path) -> dict[str, str]:
    values = read_json(index)
    weight_map = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{index} has no weight_map: download it again")
    for file in weight_map.values():
        if not isinstance(file, str) or Path(file).name != file:
            raise InputError(f"{index}: weight_map names {file!r}, which is not a file name")
    return weight_map


def _open_shard(path: Path) -> _Shard:
    is_pickle = path.suffix == ".bin"
    try:
        return _PickledShard(path) if is_pickle else _SafetensorsShard(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}): download it again") from error
    except (RuntimeError, UnpicklingError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not readable as tensors: {reason}") from error


class _SafetensorsShard:
    def __init__(self, path: Path) -> None:
        self._file: Any = safe_open(path, framework="pt")

    def names(self) -> Iterable[str]:
        return self._file.keys()  # type: ignore[no-any-return]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._file.get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype | str:
        stored: str = self._file.get_slice(name).get_dtype()
        return _SAFETENSORS_DTYPES.get(stored, stored)

    def read(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(name)  # type: ignore[no-any-return]


class _PickledShard:
    def __init__(self, path: Path) -> None:
        self._tensors: dict[str, torch.Tensor] = torch.load(
            path, map_location="cpu", mmap=True, weights_only=True
        )

    def names(self) -> Iterable[str]:
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype | str:
        return self._tensors[name].dtype

    def read(self, name: str) -> torch.Tensor:
        return self._tensors[name]
