"""The table of names covers exactly the tensors of both sides."""

import pytest
import torch
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
from transformers import MistralConfig, MistralForCausalLM

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import parameter_count, tensor_table
from megatron_in2.model.build import build_model
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world

TINY = ModelConfig(
    num_layers=2,
    hidden_size=24,
    num_attention_heads=4,
    num_query_groups=2,
    head_dim=8,
    ffn_hidden_size=40,
    vocab_size=51,
    max_position_embeddings=64,
)


def tied(config: ModelConfig, is_tied: bool) -> ModelConfig:
    return ModelConfig(**{**vars(config), "tie_word_embeddings": is_tied})


@pytest.mark.parametrize("is_tied", [False, True])
def test_huggingface_side_is_covered(is_tied: bool) -> None:
    table = tensor_table(tied(TINY, is_tied))
    ours = {
        name: shape for each in table for name, shape in zip(each.names, each.shapes, strict=True)
    }
    with torch.device("meta"):
        model = MistralForCausalLM(
            MistralConfig(
                num_hidden_layers=2,
                hidden_size=24,
                num_attention_heads=4,
                num_key_value_heads=2,
                head_dim=8,
                intermediate_size=40,
                vocab_size=51,
                tie_word_embeddings=is_tied,
            )
        )
    theirs = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert ours == theirs
    assert sum(len(each.names) for each in table) == len(ours)  # none is listed twice


@pytest.mark.parametrize("is_tied", [False, True])
def test_megatron_side_is_covered(is_tied: bool) -> None:
    config = tied(TINY, is_tied)
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        model = build_model(config, ParallelConfig(), world, torch.float32)
        state = model.sharded_state_dict()
        stored = {item.key for name, item in state.items() if not name.endswith("_extra_state")}
        count = sum(parameter.numel() for parameter in model.parameters())
    table = tensor_table(config)
    assert {each.key for each in table} == stored
    assert sum(torch.Size(each.shape).numel() for each in table) == count
    assert count == parameter_count(config)


def test_names_of_both_backends_are_joined_as_megatron_core_joins_them() -> None:
    """Its torch spec says under which names of the fused one its own tensors are saved."""
    joined: dict[str, str] = get_gpt_layer_local_spec().submodules.sharded_state_dict_keys_map
    apart = [each for each in tensor_table(TINY) if each.alias]
    assert len(apart) == 2 * TINY.num_layers
    for each in apart:
        name = each.alias.removeprefix("decoder.layers.")
        (prefix,) = [prefix for prefix in joined if name.startswith(prefix)]
        assert each.key == f"decoder.layers.{name.replace(prefix, joined[prefix])}"


def test_merge_gives_the_shape_it_states() -> None:
    for each in tensor_table(TINY):
        merged = each.merge([torch.randn(shape) for shape in each.shapes])
        assert tuple(merged.shape) == each.shape
        assert [tuple(part.shape) for part in each.split(merged)] == list(each.shapes)


def test_sizes_of_mistral_7b() -> None:
    shapes = {(each.key, each.layer): each.shape for each in tensor_table(ModelConfig())}
    layer = "decoder.layers"
    assert shapes[f"{layer}.self_attention.linear_qkv.weight", 31] == (6144, 4096)
    assert shapes[f"{layer}.mlp.linear_fc1.weight", 0] == (28672, 4096)
    assert len(shapes) == 32 * 6 + 3
