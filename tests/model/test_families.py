"""Every family in one process against transformers, float32: the loss and every gradient.

Rows hold samples longer than the original positions of scaled frequencies, and shorter ones.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.config_file import ConfigFile
from megatron_in2.architectures.registry import architecture_of_file, parameter_count
from megatron_in2.model.build import build_model
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.model.initialisation import initialise_weights
from megatron_in2.model.packed_row import packed_row
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import World, open_world
from tests.families import FAMILIES, ONE_GROUP, VOCABULARY, random_model
from tests.model.mapped import (
    assert_close_gradients,
    copy_from_transformers,
    mapped_parameters,
)

LENGTHS = [208, 16, 32]
Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(ParallelConfig(), SINGLE_RANK, seed=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def row() -> Row:
    """Tokens, labels (the next token of the same sample) and a sparse mask, each [1, row]."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, VOCABULARY, (1, sum(LENGTHS)), generator=generator)
    mask = (torch.rand(1, sum(LENGTHS), generator=generator) < 0.2).to(torch.uint8)
    ends = torch.tensor(LENGTHS).cumsum(0) - 1
    mask[0, ends], mask[0, ends - 1] = 0, 1
    return tokens, tokens.roll(-1, 1), mask


def config_of(theirs: Any) -> ModelConfig:
    file = ConfigFile(Path("config.json"), theirs.config.to_dict())
    return architecture_of_file(file).read_config(file)


def our_loss(model: AnswerGPTModel, row: Row, head_positions: np.ndarray | None) -> torch.Tensor:
    tokens, labels, mask = row
    positions = torch.cat([torch.arange(length) for length in LENGTHS]).unsqueeze(0)
    packed = packed_row(LENGTHS, torch.device("cpu"), head_positions=head_positions)
    losses: torch.Tensor = model(
        tokens, positions, None, labels=labels, loss_mask=mask, packed_seq_params=packed
    )
    return losses.sum()


def their_loss(model: Any, row: Row) -> torch.Tensor:
    """Each sample by itself, unpacked."""
    tokens, labels, mask = row
    loss, start = torch.zeros(()), 0
    for length in LENGTHS:
        sample = slice(start, start + length)
        logits = model(tokens[:, sample]).logits[0]
        losses = torch.nn.functional.cross_entropy(logits, labels[0, sample], reduction="none")
        loss, start = loss + losses[mask[0, sample].bool()].sum(), start + length
    return loss


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        *((name, {}) for name in FAMILIES),
        *((name, {"num_key_value_heads": 1}) for name in ONE_GROUP),
    ],
)
def test_loss_and_every_gradient_are_transformers(
    name: str, changes: dict[str, int], world: World, row: Row
) -> None:
    theirs = random_model(name, **changes)
    config = config_of(theirs)
    ours = build_model(config, ParallelConfig(), world, torch.float32)
    copy_from_transformers(ours, config, theirs)
    assert parameter_count(config) == sum(each.numel() for each in ours.parameters())
    expected = their_loss(theirs, row)
    expected.backward()
    answers = np.flatnonzero(row[2][0])
    # The last layer everywhere, and at answers only; padded as sequence parallelism pads it.
    for head_positions in (None, answers, np.pad(answers, (0, 3))):
        ours.zero_grad()
        loss = our_loss(ours, row, head_positions)
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
        for parameter, mapping in mapped_parameters(ours, config):
            gradients = mapping.split(parameter.grad)
            for tensor, gradient in zip(mapping.names, gradients, strict=True):
                assert_close_gradients(tensor, gradient, theirs.get_parameter(tensor).grad, 1e-4)


@pytest.mark.parametrize("name", ["mistral", "qwen 2.5", "qwen 3 tied yarn"])
def test_fresh_biases_are_zero_and_fresh_norms_are_one(name: str, world: World) -> None:
    config = config_of(random_model(name))
    model = build_model(config, ParallelConfig(), world, torch.float32)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    initialise_weights(model, config, seed=3, init_std=0.02)
    for tensor, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0.0 if tensor.endswith("bias") else 1.0)).all(), tensor
        else:
            assert 0.005 < parameter.std() < 0.03, tensor


def test_a_scaled_model_is_another_one_beyond_the_original_positions(
    world: World, row: Row
) -> None:
    """Control: without its scaling the same weights give another loss."""
    theirs = random_model("llama 3.1")
    config = config_of(theirs)
    unscaled = ModelConfig(**{**vars(config), "rope_scaling": ModelConfig().rope_scaling})
    losses = []
    for each in (config, unscaled):
        model = build_model(each, ParallelConfig(), world, torch.float32)
        copy_from_transformers(model, config, theirs)
        losses.append(our_loss(model, row, None).item())
    assert abs(losses[1] / losses[0] - 1) > 1e-3
