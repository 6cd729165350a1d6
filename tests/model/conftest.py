"""A world of one rank, in the test's own process."""

from collections.abc import Iterator

import pytest
import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import World, open_world

TINY = ModelConfig(
    num_layers=2,
    hidden_size=32,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=8,
    ffn_hidden_size=48,
    vocab_size=131,
    max_position_embeddings=256,
    rope_theta=1e4,
)


@pytest.fixture
def world() -> Iterator[World]:
    with open_world(ParallelConfig(), SINGLE_RANK, seed=1) as opened:
        yield opened


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
