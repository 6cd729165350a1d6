"""What a run will be, from its configuration alone: sizes, batch arithmetic, state per rank."""

from dataclasses import asdict
from pathlib import Path

import yaml

from megatron_in2.data.manifest import read_manifest
from megatron_in2.model.config import ModelConfig
from megatron_in2.training.config import TrainConfig

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
    flops = flops_per_row(config.model, length)
    lines = [
        yaml.safe_dump(asdict(config), sort_keys=False),
        f"parameters      {config.model.parameter_count:,}",
        f"world           {world_size} ranks = TP{parallel.tensor} x PP{parallel.pipeline} x "
        f"CP{parallel.context} x DP{ranks}",
        f"step            {rows} rows x {length:,} = {rows * length:,} tokens; "
        f"{rows // ranks} micro-batches of one row a data-parallel rank",
        f"state per rank  {state_bytes(config, world_size) / GIB:.2f} GiB: weights, gradients, "
        "optimizer (activations not counted)",
        f"FLOPs           {flops / length / 1e9:.1f} GFLOP/token forward and backward, one sample "
        "a row, causal attention, LM head at every position",
    ]
    if config.data.train:
        manifest = read_manifest(Path(config.data.train))
        steps = config.schedule.total_steps(manifest.rows)
        lines.append(
            f"run             {steps:,} steps over {manifest.rows:,} rows, {manifest.samples:,} "
            f"samples, {manifest.learnt_tokens:,} learnt tokens; {steps * rows * flops:.3g} FLOPs"
        )
    return "\n".join(lines)


def flops_per_row(model: ModelConfig, seq_length: int) -> float:
    """FLOPs of forward and backward over one row that is a single sample.

    6 per matrix parameter and token; attention scores and values take 4 x heads x head_dim per
    token and key in the forward pass, half of the keys being visible, and twice that backward.
    """
    embedding = model.vocab_size * model.hidden_size
    matrices = model.parameter_count - (0 if model.tie_word_embeddings else embedding)
    attention = 12 * model.num_layers * model.num_attention_heads * model.head_dim * seq_length / 2
    return seq_length * (6 * matrices + attention)


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
