"""Describes a run from its configuration alone: sizes, batch arithmetic, memory per rank."""

from dataclasses import asdict

import numpy as np
import yaml

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.data.packed.blend import parse_blend
from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.training.arithmetic.flops import head_flops_per_token, row_flops
from megatron_in2.training.arithmetic.memory import GIB, checkpoint_bytes, memory_per_rank
from megatron_in2.training.config import TrainConfig


def describe_run(config: TrainConfig, world_size: int) -> str:
    """Return the resolved configuration, sizes and arithmetic of a run as text.

    Raises:
        InputError: the configuration does not fit the world, or ``data.train`` names no dataset.
    """
    config.validate(world_size)
    parallel = config.parallel
    ranks = parallel.data_ranks(world_size)
    rows, length = config.schedule.global_batch_rows, config.data.seq_length
    body = float(row_flops(config.model, length, np.array([length**2]))[0])
    head = length * head_flops_per_token(config.model)
    lines = [
        yaml.safe_dump(asdict(config), sort_keys=False),
        f"parameters      {parameter_count(config.model):,}",
        f"world           {world_size} ranks = TP{parallel.tensor} x PP{parallel.pipeline} x "
        f"CP{parallel.context} x DP{ranks}",
        f"step            {rows} rows x {length:,} = {rows * length:,} tokens; "
        f"{rows // ranks} micro-batches of one row a data-parallel rank",
        _memory_line(config, world_size),
        f"checkpoint      {checkpoint_bytes(config) / 1e9:.1f} GB each",
        f"FLOPs           {body / length / 1e9:.1f} GFLOP/token forward and backward, rows of one "
        f"sample, causal attention; the LM head at every position would add {head / body:.1%}",
    ]
    if config.data.train:
        manifests = [read_manifest(prefix) for _, prefix in parse_blend(config.data.train)]
        total = sum(manifest.rows for manifest in manifests)
        samples = sum(manifest.samples for manifest in manifests)
        trained = sum(manifest.learnt_tokens for manifest in manifests)
        lines.append(
            f"run             {config.schedule.total_steps(total):,} steps over {total:,} rows, "
            f"{samples:,} samples, {trained:,} tokens trained on"
        )
    return "\n".join(lines)


def _memory_line(config: TrainConfig, world_size: int) -> str:
    memory = memory_per_rank(config, world_size)
    sizes = asdict(memory)
    host = sizes.pop("host")
    parts = ", ".join(f"{name} {size / GIB:.2f}" for name, size in sizes.items())
    on_host = f"; host memory {host / GIB:.2f}" if host else ""
    return f"memory a rank   {memory.total / GIB:.2f} GiB: {parts}{on_host}"
