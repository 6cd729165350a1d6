"""Mistral's config.json: what is read of it, what is refused, and what an export gives back."""

from pathlib import Path
from typing import Any

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of, architecture_of_file
from megatron_in2.errors import InputError

PUBLISHED = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": 32000,
}  # the published config.json of Mistral-7B-Instruct-v0.2

CONFIG = Path("model/config.json")


def file_of(**changes: object) -> ConfigFile:
    """The published config with fields changed, or left out."""
    values = PUBLISHED | changes
    return ConfigFile(CONFIG, {name: value for name, value in values.items() if value != "absent"})


def read(**changes: object) -> ModelConfig:
    file = file_of(**changes)
    return architecture_of_file(file).read_config(file)


def release(**changes: object) -> str:
    config = read(**changes)
    return architecture_of(config).release(config)


def test_published_configs_are_told_apart() -> None:
    assert read() == ModelConfig()
    assert release() == "Mistral-7B v0.2"
    assert release(vocab_size=32768) == "Mistral-7B v0.3"
    with pytest.raises(InputError, match=r"sliding_window=4096: Mistral-7B v0\.1 has such"):
        read(sliding_window=4096, rope_theta=10000.0)
    # Mistral-7B v0.1 with its window switched off is no published release, and deserves a look.
    assert release(rope_theta=10000.0) == ""
    unknown = read(rope_theta=10000.0)
    (doubt,) = architecture_of(unknown).doubts(unknown)
    assert "not Mistral-7B v0.2 or v0.3" in doubt
    assert architecture_of(unknown).doubts(ModelConfig()) == []


def test_both_generations_of_field_names() -> None:
    model = read(
        rope_theta="absent",
        rope_parameters={"rope_theta": 5e5, "rope_type": "default"},
        head_dim=64,
    )
    assert (model.rope_theta, model.head_dim) == (5e5, 64)
    assert read(rope_theta="absent").rope_theta == 1e4  # transformers' default
    assert read(tie_word_embeddings=True).tie_word_embeddings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
        (
            {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]},
            "model_type='mixtral'",
        ),
        ({"model_type": "absent"}, "model_type=None"),
        ({"architectures": ["MistralForSequenceClassification"]}, "SequenceClassification"),
        ({"num_key_value_heads": "absent"}, "field num_key_value_heads is missing"),
        ({"num_hidden_layers": "32"}, "num_hidden_layers='32' must be a number"),
        ({"hidden_size": 4096.5}, "hidden_size=4096.5 must be a whole number"),
        ({"vocab_size": 0}, "vocab_size=0 must be a whole number from 1"),
        ({"num_key_value_heads": 5}, "num_attention_heads=32 is not divisible by"),
        ({"rope_scaling": {"type": "yarn", "factor": 4}}, "rotary embedding of type 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': only silu"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not exact"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings='no' must be true or false"),
        ({"rope_parameters": 5}, "rope_parameters=5 must be an object"),
    ],
)
def test_unusable_configs(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(**changes)
    assert str(CONFIG) in str(caught.value)


def test_a_fresh_config_is_read_as_it_was_written() -> None:
    config = ModelConfig(num_layers=3, head_dim=64, rope_theta=2e4, tie_word_embeddings=True)
    fields = architecture_of(config).write_config(config)
    assert architecture_of(config).read_config(ConfigFile(CONFIG, fields)) == config


@pytest.mark.parametrize("form", [4, 5])
def test_a_source_comes_back_but_for_what_training_changed(form: int) -> None:
    rotary: dict[str, object] = {"rope_theta": 1e6}
    if form == 5:
        parameters = {"rope_theta": 1e6, "rope_type": "default"}
        rotary = {"rope_theta": "absent", "rope_parameters": parameters}
    source = file_of(**rotary, a_field_of_its_own=[1, 2], use_cache=False)
    config = read(**rotary)
    family = architecture_of(config)
    assert family.update_config(source, config) == source.values
    longer = ModelConfig(rope_theta=1e7, max_position_embeddings=65536)
    changed = family.update_config(source, longer)
    assert family.read_config(ConfigFile(CONFIG, changed)) == longer
    assert changed["max_position_embeddings"] == 65536
    untouched = set(source.values) - {"max_position_embeddings", "rope_theta", "rope_parameters"}
    assert all(changed[name] == source.values[name] for name in untouched)
    assert set(changed) == set(source.values)
    assert source.values.get("rope_parameters", {}).get("rope_theta", 1e6) == 1e6  # not changed
