"""Random initial weights that are the same under every parallel layout."""

import hashlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, apply_factories

from megatron_in2.architectures.config import ModelConfig

VOCABULARY_KEYS = ("embedding.word_embeddings.weight", "output_layer.weight")
RESIDUAL_OUTPUTS = ("linear_proj.weight", "linear_fc2.weight")


@torch.no_grad()
def initialise_weights(
    module: torch.nn.Module, config: ModelConfig, seed: int, init_std: float
) -> None:
    """Initialise every parameter of this rank's part of the model, in place.

    Each full matrix is drawn from a generator seeded by (seed, its checkpoint name, its layer), and
    this rank keeps its shard. So the TP, PP and CP sizes do not change the model. Matrices are
    normal with ``init_std``, those that write to the residual stream with
    ``init_std / sqrt(2 num_layers)`` (Megatron-LM's and GPT-2's rule), norms are one, biases zero.

    Megatron-Core has already drawn weights, which depend on the layout. Switching that off
    (``perform_initialization=False``) would also omit the tensor-parallel marks that the gradient
    norm needs for its sum over ranks.
    """
    state = module.sharded_state_dict()  # type: ignore[operator]
    apply_factories(state)
    for shard in _sharded_tensors(state):
        if shard.data.dim() == 1:
            shard.data.fill_(0.0 if shard.key.endswith(".bias") else 1.0)
            continue
        stacked = shard.prepend_axis_num  # 1 if there is a layer axis in front
        rows, columns = shard.global_shape[stacked:]
        true_rows = config.vocab_size if shard.key in VOCABULARY_KEYS else rows
        std = init_std
        if shard.key.endswith(RESIDUAL_OUTPUTS):
            std /= math.sqrt(2 * config.num_layers)
        full = torch.zeros(rows, columns)
        generator = torch.Generator().manual_seed(
            _seed_of(seed, shard.key, *shard.global_offset[:stacked])
        )
        full[:true_rows].normal_(0.0, std, generator=generator)
        row, column = shard.global_offset[stacked:]
        height, width = shard.data.shape
        shard.data.copy_(full[row : row + height, column : column + width])


def _sharded_tensors(state: Any) -> Iterator[ShardedTensor]:
    if isinstance(state, ShardedTensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from _sharded_tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _sharded_tensors(value)


def _seed_of(*parts: int | str) -> int:
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
