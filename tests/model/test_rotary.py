"""Rotary frequencies are transformers' own, and the rotation Megatron-Core's, bit for bit."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_thd
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import architecture_of
from megatron_in2.architectures.rope import RopeScaling
from megatron_in2.model.packed_row import context_indices
from megatron_in2.model.rotary import rotary_frequencies, rotation_of


def theirs(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """What transformers computes from the config.json that is written for a model."""
    fields = architecture_of(config).write_config(config)
    embedding = LlamaRotaryEmbedding(LlamaConfig(**fields))
    return embedding.inv_freq, float(embedding.attention_scaling)


def assert_same(config: ModelConfig) -> None:
    frequencies, scale = theirs(config)
    ours = rotary_frequencies(config)
    assert ours.dtype == torch.float32
    assert torch.equal(ours, frequencies)
    assert config.rope_scaling.attention_scale == scale


LLAMA = ModelConfig(architecture="llama", rope_theta=5e5)
LLAMA3 = RopeScaling("llama3", 8.0, 8192)


@pytest.mark.parametrize(
    "scaling",
    [
        RopeScaling(),
        LLAMA3,
        RopeScaling("llama3", 32.0, 8192),
        RopeScaling("yarn", 4.0, 32768),
        RopeScaling("yarn", 4.0, 32768, attention_factor=1.3, truncate=False),
    ],
)
@pytest.mark.parametrize("width", [64, 128])
def test_published_scalings(scaling: RopeScaling, width: int) -> None:
    assert_same(replace(LLAMA, rope_scaling=scaling, head_dim=width))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(["llama3", "yarn"]),
    width=st.integers(2, 96).map(lambda half: 2 * half),
    theta=st.floats(10.0, 1e9),
    factor=st.floats(1.0, 100.0),
    original=st.integers(16, 200_000),
    low=st.floats(0.1, 10.0),
    span=st.floats(1.01, 50.0),
    truncate=st.booleans(),
)
def test_any_constants(
    kind: str,
    width: int,
    theta: float,
    factor: float,
    original: int,
    low: float,
    span: float,
    truncate: bool,
) -> None:
    scaling = RopeScaling(
        type=kind,
        factor=factor,
        original_positions=original,
        low_freq_factor=low,
        high_freq_factor=low * span,
        beta_slow=low,
        beta_fast=low * span,
        truncate=truncate,
    )
    assert_same(replace(LLAMA, rope_theta=theta, rope_scaling=scaling, head_dim=width))


@pytest.mark.parametrize("field", ["factor", "low_freq_factor", "high_freq_factor"])
def test_each_constant_matters(field: str) -> None:
    """Control: constants that are read but not used, as defaults would be, do not pass."""
    model = replace(LLAMA, rope_scaling=LLAMA3)
    other = replace(LLAMA3, **{field: getattr(LLAMA3, field) * 1.5})
    changed = rotary_frequencies(replace(model, rope_scaling=other))
    assert not torch.equal(changed, rotary_frequencies(model))


@pytest.mark.parametrize("context", [1, 2])
def test_one_rotation_for_all_layers_is_megatrons(generator: torch.Generator, context: int) -> None:
    lengths, width = [24, 8, 16], 12
    frequencies = torch.rand(width // 2, generator=generator)
    angles = torch.outer(torch.arange(float(max(lengths))), frequencies)
    angles = torch.cat((angles, angles), dim=-1)[:, None, None]
    positions = torch.cat([torch.arange(length) for length in lengths])
    borders = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    for dtype in (torch.float32, torch.bfloat16):
        row = torch.randn(sum(lengths), 3, width, generator=generator).to(dtype)
        for rank in range(context):
            own = context_indices(lengths, context, rank)
            group = SimpleNamespace(size=lambda: context, rank=lambda rank=rank: rank)
            expected = _apply_rotary_pos_emb_thd(row[own], borders, angles, cp_group=group)
            assert torch.equal(rotation_of(angles, positions[own], dtype)(row[own]), expected)
            shifted = rotation_of(angles, positions[own].roll(1), dtype)(row[own])
            assert not torch.allclose(shifted.float(), expected.float(), atol=1e-2)
