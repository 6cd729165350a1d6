"""Mistral's config.json: what is read of it, what is refused, and what an export gives back."""

from dataclasses import replace
from typing import Any

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of
from megatron_in2.errors import InputError
from tests.architectures import published
from tests.architectures.published import CONFIG, config_file


def read(**changes: object) -> ModelConfig:
    return published.read(published.MISTRAL_7B_V02, **changes)


def release(**changes: object) -> str:
    config = read(**changes)
    return architecture_of(config).release(config)


def test_published_configs_are_told_apart() -> None:
    assert read() == ModelConfig()
    assert release() == "Mistral-7B v0.2"
    assert release(vocab_size=32768) == "Mistral-7B v0.3"
    with pytest.raises(InputError, match=r"sliding_window=4096: it is shorter .* Mistral-7B v0\.1"):
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
        ({"architectures": ["LlamaForCausalLM"]}, "LlamaForCausalLM"),
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
        ({"sliding_window": "absent"}, "sliding_window is missing, and transformers then takes"),
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


def test_a_window_as_long_as_the_model_is_full_attention() -> None:
    model = published.read(published.MINISTRAL_8B)
    assert model.max_position_embeddings == 32768
    with pytest.raises(InputError, match="sliding_window=32768: it is shorter"):
        published.read(published.MINISTRAL_8B, max_position_embeddings=32769)


def test_a_window_that_training_went_beyond_is_taken_away() -> None:
    source = config_file(published.MINISTRAL_8B)
    before = published.read(published.MINISTRAL_8B)
    family = architecture_of(before)
    assert family.update_config(source, before) == source.values
    longer = replace(before, max_position_embeddings=131072)
    changed = family.update_config(source, longer)
    expected = {"max_position_embeddings": 131072, "sliding_window": None}
    assert changed == source.values | expected
    assert family.read_config(ConfigFile(CONFIG, changed)) == longer


def test_nemo_has_heads_wider_than_its_share_of_the_hidden_size() -> None:
    model = published.read(published.MISTRAL_NEMO)
    assert (model.hidden_size // model.num_attention_heads, model.head_dim) == (160, 128)
