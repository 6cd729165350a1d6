"""The model against itself: answers only, no influence between samples, no padded logits."""

from functools import partial

import numpy as np
import pytest
import torch
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_layer import TransformerLayer

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.model import backend, build
from megatron_in2.model.attention import PackedAttention
from megatron_in2.model.build import build_model
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.model.initialisation import initialise_weights
from megatron_in2.model.packed_row import packed_row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.world import World
from tests.model.conftest import TINY
from tests.model.mapped import assert_close_gradients

LENGTHS = [48, 16, 32]
ROW = sum(LENGTHS)


def _build(world: World, seed: int = 3) -> AnswerGPTModel:
    model = build_model(TINY, ParallelConfig(), world, torch.float32)
    initialise_weights(model, TINY, seed, init_std=0.02)
    return model


def _random_row(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, labels (the next token of the same sample) and a sparse mask, each [1, ROW]."""
    tokens = torch.randint(0, TINY.vocab_size, (1, ROW), generator=generator)
    mask = (torch.rand(1, ROW, generator=generator) < 0.2).to(torch.uint8)
    ends = torch.tensor(LENGTHS).cumsum(0) - 1
    mask[0, ends] = 0
    mask[0, ends - 1] = 1
    return tokens, tokens.roll(-1, 1), mask


def _losses(
    model: AnswerGPTModel,
    world: World,
    tokens: torch.Tensor,
    labels: torch.Tensor,
    mask: torch.Tensor,
    lengths: list[int],
    head_positions: np.ndarray | None = None,
) -> torch.Tensor:
    positions = torch.cat([torch.arange(length) for length in lengths]).unsqueeze(0)
    row = packed_row(lengths, world.device, head_positions=head_positions)
    return model(tokens, positions, None, labels=labels, loss_mask=mask, packed_seq_params=row)


def test_parameter_count_is_the_models_own(world: World) -> None:
    assert parameter_count(TINY) == sum(p.numel() for p in _build(world).parameters())


def test_answer_only_losses_are_those_of_full_logits(
    world: World, generator: torch.Generator
) -> None:
    model = _build(world)
    tokens, labels, mask = _random_row(generator)
    only_answers = _losses(model, world, tokens, labels, mask, LENGTHS)
    everywhere = _losses(model, world, tokens, labels, torch.ones_like(mask), LENGTHS)
    assert len(only_answers) == mask.sum()
    torch.testing.assert_close(only_answers, everywhere[mask[0].bool()], rtol=1e-6, atol=1e-6)
    only_answers.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    everywhere = _losses(model, world, tokens, labels, torch.ones_like(mask), LENGTHS)
    everywhere[mask[0].bool()].sum().backward()
    for name, parameter in model.named_parameters():
        assert_close_gradients(name, gradients[name], parameter.grad, 1e-5)


def _on_torch_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build the transformer_engine backend's block, with the torch backend's modules in it."""

    def layer(qk_layernorm: bool) -> ModuleSpec:
        return backend._layer_spec(TransformerLayer, PackedAttention, qk_layernorm)

    monkeypatch.setattr(backend, "get_gpt_layer_with_transformer_engine_spec", layer)
    fused = partial(backend.block_spec, "transformer_engine")
    monkeypatch.setattr(build, "block_spec", lambda name, *others, **named: fused(*others, **named))


@pytest.mark.parametrize("recompute", ["none", "selective", "full", "fused"])
def test_the_last_layer_runs_at_answers_only(
    world: World, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, recompute: str
) -> None:
    if recompute == "fused":
        _on_torch_modules(monkeypatch)
        recompute = "none"
    model = build_model(TINY, ParallelConfig(), world, torch.float32, recompute)
    initialise_weights(model, TINY, seed=3, init_std=0.02)
    tokens, labels, mask = _random_row(generator)
    rows_of_layers: list[list[int]] = [[], []]
    for layer, counts in zip(model.decoder.layers, rows_of_layers, strict=True):
        layer.mlp.register_forward_hook(
            lambda module, inputs, output, counts=counts: counts.append(len(inputs[0]))
        )
    expected = _losses(model, world, tokens, labels, mask, LENGTHS)
    expected.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    answers = np.flatnonzero(mask[0])
    padded = np.pad(answers, (0, 3))  # as sequence parallelism pads it
    assert set(rows_of_layers[1]) == {ROW}
    rows_of_layers[1].clear()
    losses = _losses(model, world, tokens, labels, mask, LENGTHS, padded)
    losses.sum().backward()
    assert set(rows_of_layers[0]) == {ROW}
    assert set(rows_of_layers[1]) == {len(padded)}
    torch.testing.assert_close(losses, expected, rtol=1e-6, atol=1e-6)
    for name, parameter in model.named_parameters():
        assert_close_gradients(name, parameter.grad, gradients[name], 1e-5)


def test_a_row_without_answers_gives_zero_loss_and_zero_gradients(
    world: World, generator: torch.Generator
) -> None:
    model = _build(world)
    tokens, labels, mask = _random_row(generator)
    losses = _losses(model, world, tokens, labels, torch.zeros_like(mask), LENGTHS)
    losses.sum().backward()
    assert losses.tolist() == [0.0]
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_another_samples_tokens_change_nothing(world: World, generator: torch.Generator) -> None:
    model = _build(world)
    tokens, labels, mask = _random_row(generator)
    second = slice(LENGTHS[0], None)
    before = _losses(model, world, tokens, labels, mask, LENGTHS)
    changed = tokens.clone()
    changed[0, : LENGTHS[0]] = torch.randint(0, TINY.vocab_size, (LENGTHS[0],), generator=generator)
    after = _losses(model, world, changed, labels, mask, LENGTHS)
    kept = int(mask[0, second].sum())
    assert torch.equal(before[-kept:], after[-kept:])  # bit for bit
    # Negative control: with the boundaries removed, the first sample changes the second.
    leaking = _losses(model, world, changed, labels, mask, [ROW])
    assert not torch.allclose(before[-kept:], leaking[-kept:], atol=1e-4)


def test_padded_vocabulary_columns_stay_out_of_the_softmax(
    world: World, generator: torch.Generator
) -> None:
    model, padding = _build(world), 3
    true_size = TINY.vocab_size - padding
    model.output_layer.weight.data[-padding:] += 1.0  # the padding's values must not matter
    tokens, labels, mask = _random_row(generator)
    labels = labels.clamp(max=true_size - 1)
    row = packed_row(LENGTHS, world.device)
    logits = model(tokens, None, None, packed_seq_params=row)[0, :, :true_size]
    expected = torch.nn.functional.cross_entropy(logits, labels[0], reduction="none")
    with_padding = _losses(model, world, tokens, labels, mask, LENGTHS)
    model.true_columns = true_size
    losses = _losses(model, world, tokens, labels, mask, LENGTHS)
    torch.testing.assert_close(losses, expected[mask[0].bool()])
    assert not torch.allclose(with_padding, losses, atol=1e-4)  # negative control
