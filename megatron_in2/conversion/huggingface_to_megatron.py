"""Hugging Face directory -> distributed checkpoint.

Works tensor by tensor, writes to a temporary name, and renames the output when it is complete.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from megatron_in2.architectures.registry import architecture_of, tensor_table
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.checkpoint.folder import describe_checkpoint, mark_complete, step_folder
from megatron_in2.checkpoint.source import read_source
from megatron_in2.conversion.huggingface_config import (
    HuggingFaceConfig,
    dtype_name,
    read_huggingface_config,
    summary_of,
)
from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.huggingface_writer import TensorSpec
from megatron_in2.conversion.megatron_writer import write_megatron_tensors
from megatron_in2.conversion.output import Conversion, prepare_output
from megatron_in2.conversion.read_ahead import read_ahead
from megatron_in2.conversion.watch import Watch
from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer


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
    family = architecture_of(config.model)
    reader.require(table, config.model.tie_word_embeddings, family.is_derived)
    dtypes = _dtypes_by_key(reader, table)
    specs = [TensorSpec(each.key, each.shape, dtypes[each.key]) for each in table]
    watch = Watch("import", sum(spec.nbytes for spec in specs))
    prepare_output(output, watch.nbytes)

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
        release = family.release(config.model)
        described["converted_from"] = {"folder": source.name, "release": release}
        describe_checkpoint(step, described, None, tokenizer.path, source=read_source(source))
        mark_complete(step, 0)
    warnings = (*_surprises(config, source, set(dtypes.values())), *watch.warnings)
    step = step_folder(output, 0)
    summary = summary_of(config.model)
    return Conversion(step, source, summary, watch.tensors, watch.nbytes, warnings)


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
    doubts = architecture_of(config.model).doubts(config.model)
    return [*found, *(f"{source}: {doubt}" for doubt in doubts)]
