"""The two conversions: Hugging Face directory -> distributed checkpoint, and back."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor

from megatron_in2.checkpoint.folder import (
    TOKENIZER,
    describe_checkpoint,
    mark_complete,
    read_config,
    read_model_config,
    resolve_checkpoint,
    step_folder,
)
from megatron_in2.checkpoint.huggingface import (
    DTYPE_NAMES,
    HuggingFaceReader,
    write_model_config,
    write_tensors,
)
from megatron_in2.checkpoint.huggingface import read_model_config as read_huggingface_config
from megatron_in2.checkpoint.names import Mapping, mappings
from megatron_in2.checkpoint.reader import CheckpointReader
from megatron_in2.checkpoint.tokenizer_files import write_tokenizer_files
from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory
from megatron_in2.model.config import ModelConfig
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.progress import progress_bar
from megatron_in2.tokenizer import load_tokenizer

SHARD_BYTES = 5 * 10**9  # Hugging Face's usual shard size


def import_checkpoint(source: Path, output: Path) -> Path:
    """Convert a Hugging Face directory to a distributed checkpoint that any layout loads.

    Returns:
        The complete step written, ``output/iter_0000000``.

    Raises:
        InputError: an unusable directory, a missing, extra or misshapen tensor, or an output
            that exists.
    """
    config = read_huggingface_config(source)
    tokenizer = load_tokenizer(str(source))
    reader = HuggingFaceReader(source)
    table = mappings(config)
    extra = reader.names - {name for mapping in table for name in mapping.names}
    if config.tie_word_embeddings:
        extra -= {"lm_head.weight"}
    if extra:
        raise InputError(f"{source}: tensors that the architecture lacks: {sorted(extra)[:5]}")
    with (
        atomic_directory(output) as temporary,
        open_world(ParallelConfig(), SINGLE_RANK, seed=0),
    ):
        step = step_folder(temporary, 0)
        step.mkdir()
        state = {
            f"{mapping.key}/{mapping.layer}": _shard(mapping, config, _merged(reader, mapping))
            for mapping in progress_bar(table, desc="read", unit=" tensors")
        }
        dist_checkpointing.save({"model": state}, str(step))
        describe_checkpoint(step, {"model": asdict(config)}, None, tokenizer.path)
        mark_complete(step, 0)
    return step_folder(output, 0)


def export_checkpoint(
    source: Path, output: Path, dtype: str | None = None, shard_bytes: int = SHARD_BYTES
) -> Path:
    """Convert a complete checkpoint to a Hugging Face directory.

    Args:
        source: a checkpoint folder (its newest complete step) or one step.
        output: the directory to write.
        dtype: float32 | bfloat16 | float16; None keeps what is stored.
        shard_bytes: largest safetensors file.

    Returns:
        The step that was exported.

    Raises:
        InputError: no complete checkpoint, a missing or extra tensor, or an output that exists.
    """
    if dtype is not None and dtype not in DTYPE_NAMES:
        raise InputError(f"--dtype {dtype}: use one of {', '.join(DTYPE_NAMES)}")
    step = resolve_checkpoint(source)
    config = read_model_config(step)
    tokenizer = load_tokenizer(str(step / TOKENIZER))
    with atomic_directory(output) as temporary:
        reader = CheckpointReader(step, config)
        wanted = DTYPE_NAMES[dtype] if dtype else reader.dtype
        write_tensors(temporary, _split(reader, config, wanted), shard_bytes)
        name = next(name for name, known in DTYPE_NAMES.items() if known == wanted)
        write_model_config(temporary, config, name, tokenizer.bos_id, tokenizer.eos_id)
        write_tokenizer_files(temporary, tokenizer, config.max_position_embeddings)
        (temporary / "README.md").write_text(_model_card(step), encoding="utf-8")
    return step


def _shard(mapping: Mapping, config: ModelConfig, tensor: torch.Tensor) -> ShardedTensor:
    """Describe a whole tensor as its layer's slice of the stacked tensor of all layers."""
    if mapping.layer is None:
        return ShardedTensor.from_rank_offsets(mapping.key, tensor)
    return ShardedTensor.from_rank_offsets(
        mapping.key, tensor, (0, mapping.layer, config.num_layers), prepend_axis_num=1
    )


def _merged(reader: HuggingFaceReader, mapping: Mapping) -> torch.Tensor:
    pairs = zip(mapping.names, mapping.shapes, strict=True)
    return mapping.merge([reader.read(name, shape) for name, shape in pairs])


def _split(
    reader: CheckpointReader, config: ModelConfig, dtype: torch.dtype
) -> Iterator[tuple[str, torch.Tensor]]:
    for mapping in progress_bar(mappings(config), desc="export", unit=" tensors"):
        tensors = mapping.split(reader.read(mapping))
        for name, tensor in zip(mapping.names, tensors, strict=True):
            yield name, tensor.to(dtype)


def _model_card(step: Path) -> str:
    config = yaml.safe_dump(read_config(step), sort_keys=False)
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\n---\n\n"
        f"# Exported from step {step.name}\n\n"
        "A Mistral-architecture model trained by megatron_in2 (IN2: information-intensive "
        "training, arXiv 2404.16811).\n\n"
        f"## Configuration of the run\n\n```yaml\n{config}```\n"
    )
