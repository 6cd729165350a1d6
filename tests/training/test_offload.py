"""The optimizer in host memory gives bitwise the steps of the one in the device's memory."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.train_step import train_step
from tests.training.conftest import Train, WriteConfig

EXACT = ("loss", "grad_norm", "consumed_rows")
OFFLOADED = "--optimizer.cpu_offload=true"


def _exact(metrics: dict[int, dict]) -> dict[int, tuple]:
    return {step: tuple(line[name] for name in EXACT) for step, line in metrics.items()}


def test_steps_are_bitwise_those_without_offloading(
    tmp_path: Path, write_config: WriteConfig, imported: Path
) -> None:
    options = ["--config", str(write_config(tmp_path / "run")), "--runtime.dtype=bfloat16"]
    options.append(f"--checkpoint.init_from={imported}")
    beside = config_of(CommandParser(None, TrainConfig).read(options), TrainConfig)
    host = replace(beside, optimizer=replace(beside.optimizer, cpu_offload=True))
    inputs = check_run(beside, world_size=1)
    weights, steps = [], []
    with open_world(beside.parallel, SINGLE_RANK, seed=1) as world:
        for config in (beside, host):
            state = build_training_state(config, inputs, world)
            steps.append([train_step(state) for _ in range(4)])
            state.model.start_param_sync(force_sync=True)
            weights.append([each.detach().clone() for each in state.model.module.parameters()])
    for ours, expected in zip(*steps, strict=True):
        assert (ours.loss, ours.grad_norm) == (expected.loss, expected.grad_norm)
    assert all(torch.equal(*pair) for pair in zip(*weights, strict=True))


@pytest.mark.slow
def test_resumed_with_and_without_offloading_losses_are_bitwise_the_same(
    tmp_path: Path, train: Train, imported: Path
) -> None:
    """A checkpoint does not tell which optimizer wrote it."""
    options = ("--runtime.dtype=bfloat16", "--data.validation=")
    start = (*options, f"--checkpoint.init_from={imported}")
    expected = _exact(train(tmp_path / "beside", *start))
    exit_soon = "--schedule.exit_after_steps=2"
    train(tmp_path / "run", *start, OFFLOADED, exit_soon)
    train(tmp_path / "run", *options, exit_soon)
    assert _exact(train(tmp_path / "run", *options, OFFLOADED)) == expected


@pytest.mark.slow
def test_offloading_over_data_parallel_ranks(tmp_path: Path, train: Train, imported: Path) -> None:
    options = ("--runtime.dtype=bfloat16", f"--checkpoint.init_from={imported}")
    expected = _exact(train(tmp_path / "beside", *options, nproc=2))
    assert _exact(train(tmp_path / "host", *options, OFFLOADED, nproc=2)) == expected
