"""The rehearsal runs a row as large as any, and has no effect on the run."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from megatron.core import tensor_parallel

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import World, open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.callbacks.rehearsal import Rehearsal, is_rehearsed
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.batch import make_batch
from megatron_in2.training.step.fullest_row import fullest_row, most_trained_tokens
from megatron_in2.training.step.train_step import train_step
from tests.training.conftest import STEPS, Train

REHEARSED = "--runtime.rehearsal=always"
State = dict[str, torch.Tensor]


@pytest.fixture
def state(tmp_path: Path, write_config: Callable[[Path], Path]) -> Iterator[TrainingState]:
    """A run of one process before its first step."""
    path = write_config(tmp_path / "run")
    config = config_of(CommandParser(None, TrainConfig).read(["--config", str(path)]), TrainConfig)
    inputs = check_run(config, 1)
    with open_world(config.parallel, SINGLE_RANK, config.runtime.seed) as world:
        yield build_training_state(config, inputs, world)


def _snapshot(state: TrainingState) -> State:
    """A copy of everything that the next step depends on."""
    (chained,) = state.optimizer.chained_optimizers
    values = {f"weight {name}": each for name, each in state.model.named_parameters()}
    for group in chained.optimizer.param_groups:
        for index, parameter in enumerate(group["params"]):
            values[f"master {group['wd_mult']} {index}"] = parameter
            for name, each in chained.optimizer.state.get(parameter, {}).items():
                values[f"{name} {group['wd_mult']} {index}"] = each
    for index, buffer in enumerate(state.model.buffers):
        values[f"gradients {index}"] = buffer.grad_data
    values["random state"] = torch.get_rng_state()
    for name, each in tensor_parallel.get_cuda_rng_tracker().get_states().items():
        values[f"random state {name}"] = each
    values["place"] = torch.tensor([state.step, state.consumed_rows])
    return {name: each.detach().clone() for name, each in values.items()}


def _changed(before: State, after: State) -> set[str]:
    names = before.keys() | after.keys()
    return {
        name.split()[0]
        for name in names
        if name not in before or name not in after or not torch.equal(before[name], after[name])
    }


def test_it_has_no_effect_on_the_run(
    state: TrainingState, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _snapshot(state)
    Rehearsal(trained_tokens=40).on_start(state)
    assert "a row of 512 tokens, trained on 40 of them" in capsys.readouterr().out
    assert _changed(before, _snapshot(state)) == set()
    train_step(state)  # negative control: a real step changes it
    assert {"weight", "exp_avg", "exp_avg_sq", "step", "gradients", "place"} <= _changed(
        before, _snapshot(state)
    )
    before = _snapshot(state)
    before = {name: each for name, each in before.items() if not name.startswith("gradients")}
    Rehearsal(trained_tokens=40).on_start(state)
    after = _snapshot(state)
    assert all(not each.any() for name, each in after.items() if name.startswith("gradients"))
    after = {name: each for name, each in after.items() if not name.startswith("gradients")}
    assert _changed(before, after) == set()


def test_moments_are_allocated_until_the_optimizer_has_its_own(
    state: TrainingState, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocated: list[int] = []
    empty_like = torch.empty_like

    def counting(tensor: torch.Tensor, **options: object) -> torch.Tensor:
        made = empty_like(tensor, **options)
        allocated.append(made.numel())
        return made

    def moments_in_rehearsal() -> int:
        allocated.clear()
        with monkeypatch.context() as patch:
            patch.setattr("megatron_in2.training.callbacks.rehearsal.torch.empty_like", counting)
            Rehearsal(trained_tokens=1).on_start(state)
        return sum(allocated)

    parameters = parameter_count(state.config.model)
    fresh = moments_in_rehearsal()
    train_step(state)
    # Both count what else allocates in forward and backward; the difference is the moments.
    assert fresh - moments_in_rehearsal() == 2 * parameters


def test_the_row_is_one_sample_with_the_most_trained_tokens(dataset: Path, world: World) -> None:
    datasets = [PackedDataset(dataset), PackedDataset(Path(f"{dataset}_valid"))]
    most = most_trained_tokens(datasets)
    counts = [int(each[index].loss_mask.sum()) for each in datasets for index in range(len(each))]
    assert most == max(counts) > np.mean(counts)
    batch = make_batch(fullest_row(512, most), world)
    assert batch.row.lengths == [512]
    assert batch.packing.max_seqlen_q == 512
    assert int(batch.loss_mask.sum()) == batch.normaliser == most
    assert not math.isnan(float(batch.sample_weights.sum()))


@pytest.fixture
def world() -> Iterator[World]:
    from megatron_in2.parallel.config import ParallelConfig

    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as opened:
        yield opened


@pytest.mark.parametrize(
    ("wanted", "device", "expected"),
    [
        ("auto", "cuda", True),
        ("auto", "cpu", False),
        ("always", "cpu", True),
        ("never", "cuda", False),
    ],
)
def test_auto_means_on_a_gpu(wanted: str, device: str, expected: bool) -> None:
    assert is_rehearsed(wanted, torch.device(device)) is expected


def _exact(metrics: dict[int, dict]) -> dict[int, tuple]:
    return {step: (line["loss"], line["grad_norm"]) for step, line in metrics.items()}


@pytest.mark.slow
def test_losses_are_bitwise_the_same_also_after_a_resume(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    folder = tmp_path / "run"
    first = train(folder, REHEARSED, "--schedule.exit_after_steps=3")
    assert sorted(first) == [1, 2, 3]
    assert _exact(train(folder, REHEARSED)) == _exact(reference[1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--parallel.tensor=2", "--parallel.sequence=true"], id="TP2+SP"),
        pytest.param(["--parallel.pipeline=2"], id="PP2"),
        pytest.param(["--parallel.context=2"], id="CP2"),
        pytest.param(["--runtime.dtype=bfloat16"], id="DP2 bfloat16"),
    ],
)
def test_losses_are_bitwise_the_same_in_every_layout(
    options: list[str], tmp_path: Path, train: Train
) -> None:
    plain = train(tmp_path / "plain", *options, nproc=2)
    rehearsed = train(tmp_path / "rehearsed", REHEARSED, *options, nproc=2)
    assert sorted(plain) == list(range(1, STEPS + 1))
    assert _exact(rehearsed) == _exact(plain)
