"""Rotary positions: both forms of the config, and what is refused."""

import math
from dataclasses import replace
from typing import Any

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of
from megatron_in2.architectures.rope import RopeScaling
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from tests.architectures.published import (
    CONFIG,
    LLAMA_31_8B,
    MISTRAL_7B_V02,
    PUBLISHED,
    QWEN3_8B,
    QWEN25_7B,
    config_file,
    newer_form,
    read,
)

LLAMA3 = RopeScaling("llama3", 8.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)
FORMS = ("rope_parameters", "rope_scaling")
# What Qwen's model card says to add for 131,072 tokens.
QWEN_YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def updated(source: dict[str, Any], config: ModelConfig) -> dict[str, Any]:
    """The source's config with a run's changes, read again to see that nothing is lost."""
    fields = architecture_of(config).update_config(config_file(source), config)
    assert architecture_of(config).read_config(ConfigFile(CONFIG, fields)) == config
    return fields


def test_every_constant_of_llama3_is_read() -> None:
    assert read(LLAMA_31_8B).rope_scaling == LLAMA3
    odd = {
        "rope_type": "llama3",
        "factor": 3.5,
        "low_freq_factor": 1.5,
        "high_freq_factor": 6,
        "original_max_position_embeddings": 1000,
    }
    expected = RopeScaling("llama3", 3.5, 1000, low_freq_factor=1.5, high_freq_factor=6.0)
    assert read(LLAMA_31_8B, rope_scaling=odd).rope_scaling == expected


@pytest.mark.parametrize("base", [MISTRAL_7B_V02, LLAMA_31_8B, QWEN25_7B, QWEN3_8B])
def test_yarn_is_read_in_every_family(base: dict[str, Any]) -> None:
    scaling = read(base, rope_scaling=QWEN_YARN).rope_scaling
    assert scaling == RopeScaling("yarn", 4.0, 32768)
    assert scaling.attention_scale == 0.1 * math.log(4) + 1


def test_yarns_optional_fields() -> None:
    full = QWEN_YARN | {"beta_fast": 16, "beta_slow": 2, "truncate": False, "mscale": 0.7}
    scaling = read(QWEN25_7B, rope_scaling=full).rope_scaling
    assert (scaling.beta_fast, scaling.beta_slow, scaling.truncate) == (16.0, 2.0, False)
    assert scaling.attention_factor is None  # one mscale alone does nothing
    both = read(QWEN25_7B, rope_scaling=full | {"mscale_all_dim": 1.0}).rope_scaling
    growth = 0.1 * math.log(4)
    assert both.attention_scale == pytest.approx((0.7 * growth + 1) / (growth + 1), rel=1e-15)
    given = read(QWEN25_7B, rope_scaling=full | {"attention_factor": 1.25}).rope_scaling
    assert given.attention_scale == 1.25
    no_original = {"rope_type": "yarn", "factor": 2.0}
    positions = read(QWEN25_7B, rope_scaling=no_original).rope_scaling.original_positions
    assert positions == QWEN25_7B["max_position_embeddings"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_both_forms_are_read_alike(name: str) -> None:
    assert read(newer_form(PUBLISHED[name])) == read(PUBLISHED[name])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type='linear': only default,"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2}}, "rope_type='dynamic'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2}}, "original_max_position_embeddin"),
        (
            {"rope_scaling": QWEN_YARN | {"mrope_section": [2, 2]}},
            r"mrope_section=\[2, 2\]",
        ),
        ({"rope_scaling": QWEN_YARN | {"factor": 0.5}}, "rope_scaling.factor=0.5: must be 1"),
        ({"rope_scaling": QWEN_YARN | {"beta_slow": 40}}, "beta_slow=40.0: must be above 0"),
        ({"rope_scaling": QWEN_YARN | {"truncate": 1}}, "truncate=1 must be true or false"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5: only whole heads"),
        ({"rope_parameters": {"rope_theta": 1e4}}, "rope_theta=1000000.0: rope_parameters has"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            "full_attention=.*rope_parameters of type default",
        ),
    ],
)
def test_what_is_not_trained_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(QWEN25_7B, **changes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_source_that_training_left_alone_comes_back(name: str) -> None:
    source = PUBLISHED[name] | {"a_field_of_its_own": [1, 2], "use_cache": False}
    assert updated(source, read(source)) == source
    newer = newer_form(source)
    back = updated(newer, read(newer))
    # transformers 4 ignores rope_parameters, so it gets its own fields beside them.
    old = {name: back.pop(name) for name in ("rope_theta", "rope_scaling") if name in back}
    assert back == newer
    expected = {"rope_theta": newer["rope_parameters"]["rope_theta"]}
    if len(newer["rope_parameters"]) > 2:
        expected["rope_scaling"] = PUBLISHED[name]["rope_scaling"]
    assert old == expected


@pytest.mark.parametrize("form", [4, 5])
def test_only_what_a_run_changed_changes(form: int) -> None:
    source = LLAMA_31_8B if form == 4 else newer_form(LLAMA_31_8B)
    before = dict(source)
    theta = updated(source, replace(read(source), rope_theta=5e6))
    longer = updated(source, replace(read(source), max_position_embeddings=262144))
    assert longer["max_position_embeddings"] == 262144
    if form == 4:
        assert theta == source | {"rope_theta": 5e6}
        assert longer == source | {"max_position_embeddings": 262144}
    else:
        assert theta["rope_parameters"] == source["rope_parameters"] | {"rope_theta": 5e6}
        assert theta["rope_theta"] == 5e6
        assert longer["rope_parameters"] == source["rope_parameters"]
    assert source == before  # the source's own objects are not written to


# An export of a model in the newer form has both, and so has a config of transformers 5 to which
# somebody added the scaling of a model card. rope_scaling is the one that counts.
BOTH = newer_form(LLAMA_31_8B) | {
    "rope_theta": 5e5,
    "rope_scaling": LLAMA_31_8B["rope_scaling"],
}
ADDED = newer_form(QWEN25_7B) | {"rope_scaling": QWEN_YARN | {"rope_theta": 1e6}}


@pytest.mark.parametrize("source", [BOTH, ADDED])
def test_a_source_with_both_forms_keeps_both(source: dict[str, Any]) -> None:
    assert read(source).rope_scaling.type == source["rope_scaling"].get("type", "llama3")
    assert updated(source, read(source)) == source | {"rope_theta": read(source).rope_theta}
    theta = updated(source, replace(read(source), rope_theta=5e6))
    found = {each.get("rope_theta", 5e6) for each in (theta, *map(theta.get, FORMS))}
    assert found == {5e6}


@pytest.mark.parametrize(
    "base", [LLAMA_31_8B, QWEN25_7B, newer_form(QWEN25_7B), newer_form(LLAMA_31_8B), BOTH, ADDED]
)
@pytest.mark.parametrize("kind", ["default", "llama3", "yarn"])
def test_a_scaling_that_a_run_chose_is_written(base: dict[str, Any], kind: str) -> None:
    scaling = {
        "default": RopeScaling(),
        "llama3": LLAMA3,
        "yarn": RopeScaling("yarn", 8.0, 4096, attention_factor=1.1, truncate=False),
    }[kind]
    fields = updated(base, replace(read(base), rope_scaling=scaling, rope_theta=3e6))
    # Either form alone says the same: transformers 4 reads the older, others may read the newer.
    for form in FORMS:
        if base.get("rope_parameters"):
            alone = {name: value for name, value in fields.items() if name != form}
            assert read(alone).rope_scaling == scaling


def test_yarn_keeps_its_original_positions_when_the_longest_sample_changes() -> None:
    """A config may leave them out; transformers then takes max_position_embeddings."""
    source = QWEN25_7B | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}
    longer = updated(source, replace(read(source), max_position_embeddings=131072))
    assert longer["rope_scaling"]["original_max_position_embeddings"] == 32768


def test_scaling_fields_are_checked_in_a_training_config_too() -> None:
    for scaling, words in (
        (RopeScaling("yarn", 4.0), "original_positions=0"),
        (RopeScaling("llama3", 8.0, 8192, low_freq_factor=4.0), "low_freq_factor=4.0"),
    ):
        with pytest.raises(InputError, match=words):
            ModelConfig(rope_scaling=scaling).validate(ParallelConfig())
