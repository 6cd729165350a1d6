"""Building a run: weights and the optimizer's groups."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.checkpoint.store import load_weights
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import World, open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import RunInputs, check_run
from megatron_in2.training.config import TrainConfig
from tests.training.conftest import WriteConfig

Checked = tuple[TrainConfig, RunInputs]


@pytest.fixture
def checked(tmp_path: Path, write_config: WriteConfig, imported: Path) -> Checked:
    """A checked run that starts from the imported model."""
    options = ["--config", str(write_config(tmp_path / "run")), "--optimizer.weight_decay=0.25"]
    options.append(f"--checkpoint.init_from={imported}")
    config = config_of(CommandParser(None, TrainConfig).read(options), TrainConfig)
    return config, check_run(config, world_size=1)


@pytest.fixture
def world(checked: Checked) -> Iterator[World]:
    with open_world(checked[0].parallel, SINGLE_RANK, seed=1) as opened:
        yield opened


def test_norms_do_not_decay(checked: Checked, world: World) -> None:
    state = build_training_state(*checked, world)
    sizes: dict[float, int] = {}
    for group in state.optimizer.param_groups:
        decay = group["weight_decay"]
        sizes[decay] = sizes.get(decay, 0) + sum(each.numel() for each in group["params"])
    norms = sum(each.numel() for each in state.model.module.parameters() if each.dim() == 1)
    assert sizes == {0.0: norms, 0.25: parameter_count(checked[0].model) - norms}


class _LayerWithExtraState(torch.nn.Module):
    """Has extra state and requires it on loading, as Transformer Engine's layers do."""

    def get_extra_state(self) -> torch.Tensor:
        return torch.zeros(1)

    def set_extra_state(self, state: torch.Tensor) -> None:
        raise AssertionError("no checkpoint of this project holds any")


def test_layers_with_extra_state_load_without_it(checked: Checked, world: World) -> None:
    module: AnswerGPTModel = build_training_state(*checked, world).model.module
    before = {name: each.clone() for name, each in module.named_parameters()}
    module.decoder.final_layernorm.add_module("fused", _LayerWithExtraState())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert checked[1].init_from is not None
    load_weights(checked[1].init_from, module)
    assert all(torch.equal(each, before[name]) for name, each in module.named_parameters())
