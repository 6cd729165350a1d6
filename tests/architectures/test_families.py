"""Each family's config: sizes of published models, and what is refused by field name."""

from dataclasses import replace
from typing import Any

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of, parameter_count
from megatron_in2.architectures.rope import RopeScaling
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from tests.architectures.published import (
    CONFIG,
    LLAMA_2_7B,
    LLAMA_31_8B,
    PUBLISHED,
    QWEN3_8B,
    QWEN25_7B,
    read,
)

# Parameters as transformers counts them, embedding and LM head included, tied ones once.
COUNTS = {
    "Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "Mistral-7B-Instruct-v0.3": 7_248_023_552,
    "Mistral-Nemo-12B": 12_247_782_400,
    "Ministral-8B-2410": 8_019_808_256,
    "Llama-2-7B": 6_738_415_616,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.2-1B": 1_235_814_400,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-0.6B": 596_049_920,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_published_size(name: str) -> None:
    assert parameter_count(read(PUBLISHED[name])) == COUNTS[name]


def test_sizes_that_a_config_may_leave_out() -> None:
    assert read(LLAMA_2_7B, num_key_value_heads="absent").num_query_groups == 32
    assert read(QWEN3_8B, head_dim="absent").head_dim == 128
    assert read(LLAMA_31_8B, head_dim=None).head_dim == 128  # 4,096 / 32
    assert read(LLAMA_31_8B, head_dim=64).head_dim == 64


@pytest.mark.parametrize(
    ("base", "changes", "message"),
    [
        (LLAMA_31_8B, {"attention_bias": True}, "attention_bias=True: only layers without"),
        (LLAMA_31_8B, {"mlp_bias": True}, "mlp_bias=True"),
        (LLAMA_31_8B, {"hidden_act": "gelu_pytorch_tanh"}, "hidden_act='gelu_pytorch_tanh'"),
        (LLAMA_31_8B, {"attention_dropout": 0.1}, "attention_dropout=0.1"),
        (LLAMA_31_8B, {"quantization_config": {"bits": 4}}, "quantization_config is set"),
        (LLAMA_31_8B, {"model_type": "llama4_text", "architectures": None}, "llama4_text"),
        (QWEN25_7B, {"use_sliding_window": True, "sliding_window": 4096}, "use_sliding_window"),
        (QWEN25_7B, {"layer_types": ["full_attention", "sliding_attention"]}, "layer_types="),
        (QWEN25_7B, {"model_type": "qwen2_moe", "architectures": None}, "'qwen2_moe'"),
        (QWEN25_7B, {"architectures": ["Qwen2ForRewardModel"]}, "Qwen2ForRewardModel"),
        (QWEN25_7B, {"num_key_value_heads": "absent"}, "field num_key_value_heads is missing"),
        (QWEN3_8B, {"attention_bias": True}, "attention_bias=True"),
        (QWEN3_8B, {"use_sliding_window": True, "sliding_window": 4096}, "use_sliding_window"),
        (QWEN3_8B, {"model_type": "qwen3_moe", "architectures": None}, "'qwen3_moe'"),
        (QWEN3_8B, {"model_type": "qwen3_vl", "architectures": None}, "'qwen3_vl'"),
        (
            QWEN3_8B,
            {"model_type": "qwen3_moe", "num_experts": 128},
            "num_experts is set",
        ),
        (LLAMA_31_8B, {"model_type": "mllama", "vision_config": {"depth": 2}}, "vision_config is"),
        (LLAMA_31_8B, {"layer_types": ["chunked_attention"]}, "layer_types=.*only full_attention"),
    ],
)
def test_what_a_family_does_not_train_is_refused_by_name(
    base: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(base, **changes)
    assert str(CONFIG) in str(caught.value)


def test_a_window_that_hides_nothing_is_taken() -> None:
    for changes in ({}, {"use_sliding_window": True}):
        assert read(QWEN25_7B, **changes).max_position_embeddings == 32768


@pytest.mark.parametrize("base", [QWEN25_7B, QWEN3_8B])
def test_a_window_that_training_went_beyond_is_switched_off(base: dict[str, Any]) -> None:
    source = base | {"use_sliding_window": True, "sliding_window": 65536}
    before = read(source)
    family = architecture_of(before)
    file = ConfigFile(CONFIG, source)
    for positions, uses_window in ((65536, True), (131072, False)):
        longer = replace(before, max_position_embeddings=positions)
        changed = family.update_config(file, longer)
        expected = {"max_position_embeddings": positions, "use_sliding_window": uses_window}
        assert changed == source | expected
        assert family.read_config(ConfigFile(CONFIG, changed)) == longer


@pytest.mark.parametrize("name", ["mistral", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("scaling", [RopeScaling(), RopeScaling("yarn", 4.0, 1024)])
def test_a_fresh_config_is_read_as_it_was_written(name: str, scaling: RopeScaling) -> None:
    config = ModelConfig(
        architecture=name, num_layers=3, head_dim=64, rope_theta=2e4, rope_scaling=scaling
    )
    family = architecture_of(config)
    file = ConfigFile(CONFIG, family.write_config(config))
    assert family.read_config(file) == config


def test_a_tensor_size_that_the_groups_do_not_allow_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError) as refused:
        read(QWEN25_7B).validate(ParallelConfig(tensor=8))
    message = str(refused.value)
    assert "model.num_query_groups=4 is not divisible by parallel.tensor=8" in message
    assert "use parallel.tensor=1 or 2 or 4, and parallel.context or pipeline" in message
