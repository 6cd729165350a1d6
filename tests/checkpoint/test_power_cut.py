"""A power cut at any moment of a save leaves a checkpoint that is whole, the old or the new one."""

import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_in2.checkpoint.folder import CheckpointState, complete_steps
from megatron_in2.checkpoint.integrity import find_damage
from megatron_in2.checkpoint.store import CheckpointSaver
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.train_step import train_step
from tests.checkpoint.power_cut import Recording, Tree, write_tree
from tests.training.conftest import WriteConfig

SMALL = ("num_layers=1", "hidden_size=16", "head_dim=4", "ffn_hidden_size=32")


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory, write_config: WriteConfig) -> Recording:
    """The save of step 4, which removes step 2."""
    folder = tmp_path_factory.mktemp("power")
    options = ["--config", str(write_config(folder / "run"))]
    options += [f"--model.{size}" for size in SMALL]
    config = config_of(CommandParser(None, TrainConfig).read(options), TrainConfig)
    inputs = check_run(config, world_size=1)
    with open_world(config.parallel, SINGLE_RANK, seed=1) as world:
        state = build_training_state(config, inputs, world)
        train_step(state)
        (folder / "run").mkdir()
        with CheckpointSaver(
            folder / "run",
            asdict(config),
            inputs.tokenizer,
            inputs.datasets,
            source={},
            keep_last=1,
            keep_every=0,
            asynchronous=True,
        ) as saver:
            for step in (2, 4):
                saved = CheckpointState(
                    step=step,
                    consumed_rows=4 * step,
                    epoch=0,
                    global_batch_rows=4,
                    seed=1,
                    tokenizer_sha256=inputs.tokenizer.sha256,
                    dataset_sha256="",
                    loss=1.0,
                )
                with Recording(folder / "run", folder / f"notes-{step}") as recording:
                    saver.save(state.model.module, state.optimizer, saved)
                    saver.wait()
    return recording


def _problems(recording: Recording, folder: Path, ignored: str = "") -> Iterator[str]:
    """Look at every disk that a power cut may leave: no whole step, or one that only looks it."""
    for when, tree in recording.crashes(random.Random(7), each=6, ignored=ignored):
        write_tree(tree, folder)
        steps = complete_steps(folder)
        if not steps:
            yield f"{when}: no step is left"
        for step in steps:
            if problem := find_damage(step):
                yield f"{when}: {step.name}: {problem}"


def _steps(tree: Tree) -> set[str]:
    return {name for name in tree.directories[tree.root] if name.startswith("iter_")}


def test_a_power_cut_at_any_moment_leaves_a_whole_step(
    tmp_path: Path, recording: Recording
) -> None:
    events = recording.events()
    assert len([event for event in events if event.path]) > 10
    assert _steps(events[0].tree) == {"iter_0000002"}
    assert _steps(events[-1].tree) == {"iter_0000004"}
    assert list(_problems(recording, tmp_path / "disk")) == []


@pytest.mark.parametrize(
    "ignored", [".distcp", "common.pt", "metadata.json", "iter_0000004", "/run"]
)
def test_without_one_of_the_syncs_a_power_cut_does_harm(
    ignored: str, tmp_path: Path, recording: Recording
) -> None:
    """The control: the same examination finds what each of them is for."""
    assert any(_problems(recording, tmp_path / "disk", ignored))
