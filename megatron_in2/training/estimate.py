"""What a run will be, from its configuration alone: sizes, batch arithmetic, state per rank."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import yaml

from megatron_in2.data.manifest import read_manifest
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.flops import head_flops_per_token, row_flops

GIB = 2**30


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
        f"parameters      {config.model.parameter_count:,}",
        f"world           {world_size} ranks = TP{parallel.tensor} x PP{parallel.pipeline} x "
        f"CP{parallel.context} x DP{ranks}",
        f"step            {rows} rows x {length:,} = {rows * length:,} tokens; "
        f"{rows // ranks} micro-batches of one row a data-parallel rank",
        f"state per rank  {state_bytes(config, world_size) / GIB:.2f} GiB: weights, gradients, "
        "optimizer (activations not counted)",
        f"FLOPs           {body / length / 1e9:.1f} GFLOP/token forward and backward, rows of one "
        f"sample, causal attention; the LM head at every position would add {head / body:.1%}",
    ]
    if config.data.train:
        manifest = read_manifest(Path(config.data.train))
        steps = config.schedule.total_steps(manifest.rows)
        lines.append(
            f"run             {steps:,} steps over {manifest.rows:,} rows, {manifest.samples:,} "
            f"samples, {manifest.learnt_tokens:,} learnt tokens"
        )
    return "\n".join(lines)


def state_bytes(config: TrainConfig, world_size: int) -> float:
    """Bytes of weights, gradients and optimizer state that one rank holds, without activations.

    Gradients are float32; AdamW's two moments and, in bfloat16, the float32 master weights are
    sharded over the data- and context-parallel ranks.
    """
    parallel = config.parallel
    own = config.model.parameter_count / (parallel.tensor * parallel.pipeline)
    in_bfloat16 = config.runtime.dtype == "bfloat16"
    weights = own * (2 if in_bfloat16 else 4)
    moments = own * (12 if in_bfloat16 else 8)
    return weights + 4 * own + moments / (parallel.data_ranks(world_size) * parallel.context)
