"""torch's AdamW and Transformer Engine's FusedAdam resume each other's checkpoints."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from megatron.core import optimizer as megatron_optimizer
from megatron.core.optimizer import distrib_optimizer

from megatron_in2.checkpoint.folder import CheckpointState
from megatron_in2.checkpoint.optimizer_state import distributed_optimizer
from megatron_in2.checkpoint.store import CheckpointSaver, load_checkpoint
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import RunInputs, check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.train_step import train_step
from tests.checkpoint.fused_adam import FusedAdam
from tests.training.conftest import WriteConfig

SMALL = ("num_layers=1", "hidden_size=16", "head_dim=4", "ffn_hidden_size=32")
STEPS = 3
Choose = Callable[[bool], None]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Choose:
    """Let Megatron-Core see an installed Transformer Engine, or none."""

    def set_names(fused: bool) -> None:
        adam = FusedAdam if fused else torch.optim.AdamW
        monkeypatch.setattr(megatron_optimizer, "USING_PYTORCH_OPTIMIZER", not fused)
        monkeypatch.setattr(megatron_optimizer, "Adam", adam)
        monkeypatch.setattr(distrib_optimizer, "Adam", adam)
        monkeypatch.setattr(distrib_optimizer, "HAVE_APEX_OR_TE", fused)
        monkeypatch.setattr(distrib_optimizer, "USING_TE_OPTIMIZER", fused)

    return set_names


@pytest.fixture
def checked(tmp_path: Path, write_config: WriteConfig) -> tuple[TrainConfig, RunInputs]:
    options = ["--config", str(write_config(tmp_path / "run"))]
    options += [f"--model.{size}" for size in SMALL]
    config = config_of(CommandParser(None, TrainConfig).read(options), TrainConfig)
    return config, check_run(config, world_size=1)


def _save(state: TrainingState, inputs: RunInputs, folder: Path) -> Path:
    saved = CheckpointState(
        step=STEPS,
        consumed_rows=state.consumed_rows,
        epoch=0,
        global_batch_rows=4,
        seed=1,
        tokenizer_sha256=inputs.tokenizer.sha256,
        dataset_sha256="",
        loss=1.0,
    )
    folder.mkdir()
    with CheckpointSaver(
        folder, asdict(state.config), inputs.tokenizer, inputs.datasets, {}, 1, 0, False
    ) as saver:
        return saver.save(state.model.module, state.optimizer, saved)


@pytest.mark.parametrize("first", ["AdamW", "FusedAdam"])
def test_the_other_one_continues(
    first: str, checked: tuple[TrainConfig, RunInputs], tmp_path: Path, choose: Choose
) -> None:
    config, inputs = checked
    losses: dict[str, list[float]] = {}
    with open_world(config.parallel, SINGLE_RANK, seed=1) as world:
        choose(first == "FusedAdam")
        state = build_training_state(config, inputs, world)
        assert type(distributed_optimizer(state.optimizer).optimizer).__name__ == first
        for _ in range(STEPS):
            train_step(state)
        step = _save(state, inputs, tmp_path / "saved")
        at = state.consumed_rows
        losses[first] = [train_step(state).loss for _ in range(STEPS)]
        for fused in (True, False):
            choose(fused)
            other = build_training_state(config, inputs, world)
            load_checkpoint(step, other.model.module, other.optimizer)
            other.step, other.consumed_rows = STEPS, at
            name = type(distributed_optimizer(other.optimizer).optimizer).__name__
            losses[f"{name}, resumed"] = [train_step(other).loss for _ in range(STEPS)]
    assert losses.pop(f"{first}, resumed") == losses[first]
    for name, found in losses.items():
        assert found == pytest.approx(losses[first], rel=1e-6), name
    assert losses[first][0] != losses[first][-1]
