"""FLOPs, memory and layouts of published models of every family."""

from dataclasses import replace

import numpy as np
import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import parameter_count, tensor_table
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.estimate import describe_run
from megatron_in2.training.arithmetic.flops import (
    attention_flops,
    body_flops_per_token,
    head_flops_per_token,
    loss_flops,
    row_flops,
)
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpu
from megatron_in2.training.arithmetic.memory import checkpoint_bytes, memory_per_rank
from megatron_in2.training.arithmetic.plan import rank_layouts
from megatron_in2.training.config import DataConfig, RuntimeConfig, TrainConfig
from tests.architectures.published import PUBLISHED, read

BF16 = RuntimeConfig(dtype="bfloat16")


def config_of(name: str, tensor: int = 1, pipeline: int = 1) -> TrainConfig:
    model = replace(read(PUBLISHED[name]), max_position_embeddings=32768)
    parallel = ParallelConfig(tensor, pipeline, sequence=tensor > 1)
    return TrainConfig(model=model, parallel=parallel, runtime=BF16)


# By hand from the published sizes: layers x (q, k, v and o; gate, up and down; biases; norms).
BODIES = {
    "Llama-3.1-8B": 32 * (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 4096 * 14336 + 2 * 4096) + 4096,
    "Mistral-Nemo-12B": 40 * (2 * 5120 * 4096 + 2 * 5120 * 1024 + 3 * 5120 * 14336 + 2 * 5120)
    + 5120,
    "Qwen2.5-7B": 28
    * (2 * 3584 * 3584 + 2 * 512 * 3584 + 3584 + 2 * 512 + 3 * 3584 * 18944 + 2 * 3584)
    + 3584,
    "Qwen3-0.6B": 28 * (2 * 2048 * 1024 + 2 * 1024 * 1024 + 2 * 128 + 3 * 1024 * 3072 + 2 * 1024)
    + 1024,
}


@pytest.mark.parametrize("name", BODIES)
def test_flops_by_hand(name: str) -> None:
    model = read(PUBLISHED[name])
    assert body_flops_per_token(model) == 6 * BODIES[name]
    assert head_flops_per_token(model) == 6 * model.vocab_size * model.hidden_size
    square = 12 * model.num_layers * model.num_attention_heads * model.head_dim * 100.0 / 2
    assert attention_flops(model, np.array([100])).tolist() == [square]
    # A row of 10 tokens with one answer: all but the last layer's attention, output projection
    # and feed-forward layer, which run once, as the head does.
    width = model.num_attention_heads * model.head_dim
    behind = model.hidden_size * (width + 3 * model.ffn_hidden_size)
    expected = 10 * 6 * (BODIES[name] - behind) + square * (1 - 1 / model.num_layers)
    expected += 6 * (behind + model.vocab_size * model.hidden_size)
    assert loss_flops(model, 10, np.array([100]), answer_tokens=1) == pytest.approx(expected)


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_of_the_first_stage_are_those_of_its_tensors(name: str) -> None:
    """Embeddings are large in these families, and a tied one has a copy on the last stage."""
    for tensor, pipeline in ((1, 1), (2, 1), (1, 2), (2, 4)):
        config = config_of(name, tensor, pipeline)
        own = 0
        for mapping in tensor_table(config.model):
            is_first = mapping.layer is not None and (
                mapping.layer < config.model.num_layers // pipeline
            )
            is_outside = mapping.layer is None and pipeline == 1
            if is_first or is_outside or mapping.key.startswith("embedding."):
                own += mapping.size
        memory = memory_per_rank(config, world_size=8)
        # The final norm is counted on the first stage, where it is not: 1e-6 of the weights.
        assert memory.weights == pytest.approx(2 * own / tensor, rel=1e-4)
        assert memory.gradients == 2 * memory.weights
    assert checkpoint_bytes(config) == 14 * parameter_count(config.model)


def test_norms_of_queries_and_keys_keep_their_inputs() -> None:
    sizes = {"num_layers": 4, "max_position_embeddings": 1024}
    with_norms, without = (
        TrainConfig(
            model=ModelConfig(architecture=name, **sizes),
            data=DataConfig(seq_length=1024),
            runtime=BF16,
        )
        for name in ("qwen3", "mistral")
    )
    more = memory_per_rank(with_norms, 1).activations - memory_per_rank(without, 1).activations
    assert more == 4 * 1024 * 2 * 32 * 128  # the queries'


def test_plan_offers_no_tensor_size_that_the_groups_forbid() -> None:
    gpu = read_gpu(GPU_TYPES, "h100")
    sizes = {each.parallel.tensor for each in rank_layouts(config_of("Qwen2.5-7B"), 128, gpu)}
    assert sizes == {1, 2, 4}


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen2.5-7B", "Qwen3-8B", "Mistral-Nemo-12B"])
def test_a_dry_run_describes_it(name: str) -> None:
    config = config_of(name, tensor=4)
    text = describe_run(config, 128)
    assert f"{parameter_count(config.model):,}" in text
    assert "TP4 x PP1 x CP1 x DP32" in text
    flops = row_flops(config.model, 32768, np.array([32768**2]))[0] / 32768 / 1e9
    assert f"{flops:.1f} GFLOP/token" in text
