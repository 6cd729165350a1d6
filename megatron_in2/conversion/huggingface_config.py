"""Reads and writes ``config.json`` and ``generation_config.json``; families are the registry's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of, architecture_of_file
from megatron_in2.checkpoint.source import CONFIG, FOLDER, GENERATION, source_of_step
from megatron_in2.choices import as_field, wrong_choice
from megatron_in2.files import atomic_file, write_json

DTYPE_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DTYPE_FIELDS = ("torch_dtype", "dtype")  # of transformers 4, of transformers 5


@dataclass(frozen=True)
class HuggingFaceConfig:
    """What a ``config.json`` says.

    Args:
        model: family and sizes.
        dtype: the dtype it declares for the weights; None where it declares none.
    """

    model: ModelConfig
    dtype: torch.dtype | None


def read_huggingface_config(folder: Path) -> HuggingFaceConfig:
    """Translate the ``config.json`` of a directory.

    Raises:
        InputError: another architecture, a field that is missing or of another type, or one
            that asks for what this project does not train.
    """
    file = ConfigFile.read(folder / CONFIG)
    return HuggingFaceConfig(architecture_of_file(file).read_config(file), _dtype(file))


def write_huggingface_config(
    folder: Path, step: Path, model: ModelConfig, dtype: torch.dtype, fresh: dict[str, Any]
) -> None:
    """Write ``config.json`` and ``generation_config.json`` of an export.

    Where the step keeps the files of the model that it descends from, every field comes back but
    for what training changed, and ``generation_config.json`` as it was. Other steps get the
    fields that transformers needs.

    Args:
        folder: the export.
        step: the step that is exported.
        model: its family and sizes.
        dtype: of the written tensors.
        fresh: fields of a ``config.json`` that does not come from a source; its ids of tokens
            are ``generation_config.json`` too.
    """
    kept, architecture = source_of_step(step), architecture_of(model)
    if CONFIG not in kept:
        fields = architecture.write_config(model) | fresh | {DTYPE_FIELDS[0]: dtype_name(dtype)}
        write_json(folder / CONFIG, fields)
        tokens = {name: value for name, value in fresh.items() if name.endswith("_token_id")}
        write_json(folder / GENERATION, tokens)
        return
    source = ConfigFile.read(step / FOLDER / CONFIG)
    fields = architecture.update_config(source, model)
    fields |= {name: dtype_name(dtype) for name in DTYPE_FIELDS if name in fields}
    write_json(folder / CONFIG, fields)
    if GENERATION in kept:
        with atomic_file(folder / GENERATION) as stream:
            stream.write(kept[GENERATION])


def summary_of(model: ModelConfig) -> str:
    """Return one line: the sizes, and the release that they belong to."""
    architecture, scaling = architecture_of(model), model.rope_scaling
    scaled = f" with {scaling.type} x {scaling.factor:g}" if scaling.type != "default" else ""
    return (
        f"{architecture.release(model) or architecture.title} ({model.num_layers} layers x "
        f"{model.hidden_size}, {model.num_attention_heads} heads in {model.num_query_groups} "
        f"groups, vocabulary {model.vocab_size:,}, rope_theta {model.rope_theta:g}{scaled}, "
        "full attention)"
    )


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name as ``config.json`` has it."""
    return str(dtype).removeprefix("torch.")


def _dtype(file: ConfigFile) -> torch.dtype | None:
    name = file.get("dtype") or file.get("torch_dtype")
    if name is None:
        return None
    if name not in DTYPE_NAMES:
        raise wrong_choice(as_field(f"{file.path}: dtype", name), tuple(DTYPE_NAMES))
    return DTYPE_NAMES[name]
