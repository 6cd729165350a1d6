"""The two conversions: Hugging Face directory -> distributed checkpoint, and back.

Both go tensor by tensor, write beside the output's name, and give it that name when it is whole.
"""

import shutil
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import psutil
import torch

from megatron_in2.architectures.tensors import TensorMapping, tensor_table
from megatron_in2.checkpoint.folder import (
    LATEST,
    describe_checkpoint,
    mark_complete,
    read_model_config,
    read_template,
    read_tokenizer,
    resolve_checkpoint,
    step_folder,
)
from megatron_in2.conversion.huggingface_config import (
    DTYPE_NAMES,
    HuggingFaceConfig,
    dtype_name,
    read_huggingface_config,
    write_model_config,
)
from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.huggingface_writer import TensorSpec, write_huggingface_tensors
from megatron_in2.conversion.megatron_reader import MegatronReader
from megatron_in2.conversion.megatron_writer import write_megatron_tensors
from megatron_in2.conversion.model_card import model_card
from megatron_in2.conversion.read_ahead import read_ahead
from megatron_in2.conversion.tensor_checks import count_not_finite
from megatron_in2.conversion.tokenizer_files import write_tokenizer_files
from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory, write_json
from megatron_in2.progress import progress_bar
from megatron_in2.templates.base import template_wording
from megatron_in2.templates.film import FILM
from megatron_in2.templates.load import TEMPLATE_FILE
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

SHARD_BYTES = 5 * 10**9  # Hugging Face's usual shard size
SPARE_BYTES = 64 * 2**20  # for what stands beside the tensors


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        step: the complete step that was written or read.
        folder: the Hugging Face directory that was read or written.
        summary: the architecture in one line.
        tensors: Hugging Face tensors converted.
        nbytes: bytes of weights written.
        warnings: what the user should know, one line each.
    """

    step: Path
    folder: Path
    summary: str
    tensors: int
    nbytes: int
    warnings: tuple[str, ...]


def import_checkpoint(source: Path, output: Path, allow_pickle: bool = False) -> Conversion:
    """Convert a Hugging Face directory to a distributed checkpoint that any layout loads.

    Every tensor keeps the dtype it is stored in. The step is ``output/iter_0000000``.

    Raises:
        InputError: an unusable directory, a missing, extra or misshapen tensor, a tokenizer with
            more pieces than the model, an output that exists, or too little disk.
    """
    config = read_huggingface_config(source)
    tokenizer = _fitting_tokenizer(source, config)
    reader = HuggingFaceReader(source, allow_pickle)
    table = tensor_table(config.model)
    reader.require(table, config.model.tie_word_embeddings)
    dtypes = _dtypes_by_key(reader, table)
    specs = [TensorSpec(each.key, each.shape, dtypes[each.key]) for each in table]
    watch = _Watch("import", sum(spec.nbytes for spec in specs))
    _prepare_output(output, watch.nbytes)

    def read(mapping: TensorMapping) -> torch.Tensor:
        pairs = zip(mapping.names, mapping.shapes, strict=True)
        tensors = [reader.read(name, shape) for name, shape in pairs]
        for name, tensor in zip(mapping.names, tensors, strict=True):
            watch.see(name, tensor)
        return mapping.merge(tensors)

    with atomic_directory(output) as temporary, watch:
        step = step_folder(temporary, 0)
        step.mkdir()
        tensors = read_ahead(read, table)
        write_megatron_tensors(
            step, table, config.model.num_layers, lambda each: dtypes[each.key], tensors
        )
        described: dict[str, Any] = {"model": asdict(config.model)}
        described["converted_from"] = {"folder": source.name, "release": config.release}
        describe_checkpoint(step, described, None, tokenizer.path)
        mark_complete(step, 0)
    warnings = (*_surprises(config, source, set(dtypes.values())), *watch.warnings)
    step = step_folder(output, 0)
    return Conversion(step, source, config.summary, watch.tensors, watch.nbytes, warnings)


def export_checkpoint(
    source: Path,
    output: Path,
    dtype: str | None = None,
    wanted: str = LATEST,
    shard_bytes: int = SHARD_BYTES,
) -> Conversion:
    """Convert a complete checkpoint to a Hugging Face directory; optimizer state stays behind.

    Args:
        source: a checkpoint folder or one step.
        output: the directory to write.
        dtype: float32 | bfloat16 | float16; None keeps what is stored.
        wanted: which step of a folder: a number, or ``latest``.
        shard_bytes: largest safetensors file.

    Raises:
        InputError: no complete checkpoint, a missing, extra or damaged tensor, an output that
            exists, or too little disk.
    """
    if dtype is not None and dtype not in DTYPE_NAMES:
        raise InputError(f"--dtype {dtype}: use one of {', '.join(DTYPE_NAMES)}")
    step = resolve_checkpoint(source, wanted)
    model = read_model_config(step)
    tokenizer, template = read_tokenizer(step), read_template(step)
    reader = MegatronReader(step, model)
    table = tensor_table(model)
    specs = [
        TensorSpec(name, shape, DTYPE_NAMES[dtype] if dtype else reader.dtype(mapping))
        for mapping in table
        for name, shape in zip(mapping.names, mapping.shapes, strict=True)
    ]
    watch = _Watch("export", sum(spec.nbytes for spec in specs))
    _prepare_output(output, watch.nbytes)

    def read(mapping: TensorMapping) -> list[torch.Tensor]:
        tensors = mapping.split(reader.read(mapping))
        to = DTYPE_NAMES[dtype] if dtype else reader.dtype(mapping)
        converted = [tensor.to(to) for tensor in tensors]
        for name, tensor in zip(mapping.names, converted, strict=True):
            watch.see(name, tensor)
        return converted

    with atomic_directory(output) as temporary, watch:
        tensors = chain.from_iterable(read_ahead(read, table))
        write_huggingface_tensors(temporary, specs, tensors, shard_bytes)
        write_model_config(temporary, model, specs[0].dtype, tokenizer.bos_id, tokenizer.eos_id)
        write_tokenizer_files(temporary, tokenizer, template or FILM, model.max_position_embeddings)
        if template is not None:
            write_json(temporary / TEMPLATE_FILE, template_wording(template))
        (temporary / "README.md").write_text(
            model_card(step, template, tokenizer), encoding="utf-8"
        )
    summary = HuggingFaceConfig(model, specs[0].dtype, release="").summary
    return Conversion(step, output, summary, watch.tensors, watch.nbytes, watch.warnings)


class _Watch:
    """Sees every tensor of a conversion pass: shows progress, counts NaN and infinities."""

    def __init__(self, name: str, nbytes: int) -> None:
        self.tensors = 0
        self.nbytes = nbytes
        self._name = name
        self._unusual: dict[str, int] = {}

    def __enter__(self) -> "_Watch":
        self._bar = progress_bar(total=self.nbytes, desc=self._name, unit="B", unit_scale=True)
        return self

    def __exit__(self, *unused: object) -> None:
        self._bar.close()

    def see(self, name: str, tensor: torch.Tensor) -> None:
        """Note one tensor that is about to be written."""
        self.tensors += 1
        self._bar.update(tensor.nbytes)
        if found := count_not_finite(tensor):
            self._unusual[name] = found

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the tensors seen call for."""
        if not self._unusual:
            return ()
        first = [f"{name} ({count:,})" for name, count in list(self._unusual.items())[:3]]
        return (
            f"{sum(self._unusual.values()):,} values written are NaN or infinite, in "
            f"{len(self._unusual)} tensors: {', '.join(first)}",
        )


def _fitting_tokenizer(source: Path, config: HuggingFaceConfig) -> Tokenizer:
    tokenizer = load_tokenizer(str(source))
    if tokenizer.vocab_size > config.model.vocab_size:
        raise InputError(
            f"{tokenizer.path} has {tokenizer.vocab_size:,} pieces, config.json says vocab_size="
            f"{config.model.vocab_size:,}: put the tokenizer.model of the same release there"
        )
    return tokenizer


def _dtypes_by_key(reader: HuggingFaceReader, table: list[TensorMapping]) -> dict[str, torch.dtype]:
    """Return the dtype of each key, which all its layers and parts must share."""
    dtypes: dict[str, torch.dtype] = {}
    for mapping in table:
        for name in mapping.names:
            dtype = reader.dtype(name)
            if dtypes.setdefault(mapping.key, dtype) != dtype:
                raise InputError(
                    f"{reader.folder}: tensor {name} is {dtype_name(dtype)}, others of its kind "
                    f"are {dtype_name(dtypes[mapping.key])}: save the model in one dtype"
                )
    return dtypes


def _surprises(config: HuggingFaceConfig, source: Path, stored: set[torch.dtype]) -> list[str]:
    found = []
    if config.dtype is not None and stored != {config.dtype}:
        names = " and ".join(sorted(dtype_name(dtype) for dtype in stored))
        found.append(
            f"{source}: config.json says {dtype_name(config.dtype)}, the tensors are {names}: "
            "kept as stored"
        )
    is_7b = (config.model.num_layers, config.model.hidden_size) == (32, 4096)
    if is_7b and not config.release:
        found.append(
            f"{source}: not Mistral-7B v0.2 or v0.3, which have rope_theta=1e+06 and 32,000 or "
            f"32,768 pieces: here rope_theta={config.model.rope_theta:g}, "
            f"{config.model.vocab_size:,} pieces"
        )
    return found


def _prepare_output(output: Path, nbytes: int) -> None:
    """Remove what killed conversions to the same output left, then compare the disk.

    Raises:
        InputError: the disk has too little free.
    """
    for path in output.parent.glob(f".{output.name}.partial-*"):
        owner = path.name.rpartition("-")[2]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            shutil.rmtree(path, ignore_errors=True)
    folder = next(parent for parent in output.absolute().parents if parent.is_dir())
    needed, free = nbytes + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{output} needs {needed / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB free: "
            "free some, or name an output on another disk"
        )
