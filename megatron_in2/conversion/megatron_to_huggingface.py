"""Distributed checkpoint -> Hugging Face directory.

Works tensor by tensor, writes to a temporary name, and renames the output when it is complete.
"""

from itertools import chain
from pathlib import Path

import torch

from megatron_in2.architectures.registry import tensor_table
from megatron_in2.architectures.tensors import TensorMapping
from megatron_in2.checkpoint.folder import (
    LATEST,
    read_init_std,
    read_model_config,
    read_template,
    read_tokenizer,
    resolve_checkpoint,
)
from megatron_in2.choices import as_option, wrong_choice
from megatron_in2.conversion.huggingface_config import (
    DTYPE_NAMES,
    summary_of,
    write_huggingface_config,
)
from megatron_in2.conversion.huggingface_writer import TensorSpec, write_huggingface_tensors
from megatron_in2.conversion.megatron_reader import MegatronReader
from megatron_in2.conversion.model_card import model_card
from megatron_in2.conversion.output import Conversion, prepare_output
from megatron_in2.conversion.read_ahead import read_ahead
from megatron_in2.conversion.tokenizer_files import write_tokenizer_files
from megatron_in2.conversion.watch import Watch
from megatron_in2.files import atomic_directory, write_json
from megatron_in2.templates.base import template_wording
from megatron_in2.templates.film import FILM
from megatron_in2.templates.load import TEMPLATE_FILE

SHARD_BYTES = 5 * 10**9  # Hugging Face's usual shard size


def export_checkpoint(
    source: Path,
    output: Path,
    dtype: str | None = None,
    wanted: str = LATEST,
    shard_bytes: int = SHARD_BYTES,
) -> Conversion:
    """Convert a complete checkpoint to a Hugging Face directory; optimizer state is left out.

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
        raise wrong_choice(as_option("dtype", dtype), tuple(DTYPE_NAMES))
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
    watch = Watch("export", sum(spec.nbytes for spec in specs))
    prepare_output(output, watch.nbytes)

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
        fresh = {
            "initializer_range": read_init_std(step),
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
        }
        write_huggingface_config(temporary, step, model, specs[0].dtype, fresh)
        write_tokenizer_files(temporary, tokenizer, template or FILM, model.max_position_embeddings)
        if template is not None:
            write_json(temporary / TEMPLATE_FILE, template_wording(template))
        (temporary / "README.md").write_text(
            model_card(step, template, tokenizer), encoding="utf-8"
        )
    return Conversion(step, output, summary_of(model), watch.tensors, watch.nbytes, watch.warnings)
