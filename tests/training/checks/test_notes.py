"""What is said of a run that may start: rows left out, batches larger than the data, changes."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.rope import RopeScaling
from megatron_in2.errors import InputError
from megatron_in2.training.checks.changes import changes_since, require_same_function
from megatron_in2.training.checks.notes import notes_on_run
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.config import (
    CheckpointConfig,
    OptimizerConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)


def _notes(rows: int, **schedule: int) -> list[str]:
    config = TrainConfig(schedule=ScheduleConfig(**schedule))
    unused: Any = None
    total = config.schedule.total_steps(rows)
    return notes_on_run(config, RunInputs(unused, (), rows, 1, {}, total, None, None))


@pytest.mark.parametrize(
    ("rows", "schedule", "words"),
    [
        (208, {"global_batch_rows": 4}, []),
        (207, {"global_batch_rows": 4}, ["3 of 207 rows of schedule.epochs=1 are left out"]),
        (207, {"global_batch_rows": 4, "epochs": 2}, ["2 of 414 rows of schedule.epochs=2 are"]),
        (207, {"global_batch_rows": 4, "steps": 3}, []),
        (207, {"global_batch_rows": 300}, ["=300 is more than the 207 rows"]),
    ],
)
def test_rows_left_out_and_rows_seen_twice(
    rows: int, schedule: dict[str, int], words: list[str]
) -> None:
    notes = _notes(rows, **schedule)
    assert len(notes) == len(words)
    for note, each in zip(notes, words, strict=True):
        assert each in note


@pytest.fixture
def step(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(asdict(TrainConfig())))
    return tmp_path


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"model": ModelConfig(rope_theta=1e7)}, "model.rope_theta=10000000.0"),
        (
            {"model": ModelConfig(rope_scaling=RopeScaling(type="linear", factor=2.0))},
            "model.rope_scaling.factor=2.0",
        ),
        ({"runtime": RuntimeConfig(dtype="float32")}, "runtime.dtype=float32"),
        ({"optimizer": OptimizerConfig(normalisation="sample")}, "optimizer.normalisation=sample"),
    ],
)
def test_another_function_needs_the_flag(step: Path, change: dict[str, Any], name: str) -> None:
    config = replace(TrainConfig(), **change)
    with pytest.raises(InputError, match=name):
        require_same_function(config, step)
    require_same_function(
        replace(config, checkpoint=CheckpointConfig(allow_changed_model=True)), step
    )


def test_every_field_that_differs_is_found(step: Path) -> None:
    assert changes_since(step, TrainConfig()) == []
    config = TrainConfig(schedule=ScheduleConfig(steps=7), optimizer=OptimizerConfig(lr=2e-6))
    assert [str(change) for change in changes_since(step, config)] == [
        "optimizer.lr=2e-06 (saved with 1e-06)",
        "schedule.steps=7 (saved with 0)",
    ]
    require_same_function(config, step)


def test_fields_that_the_saved_version_did_not_have_are_no_change(step: Path) -> None:
    values = asdict(TrainConfig())
    del values["runtime"]["hang_timeout"], values["logging"], values["model"]["rope_scaling"]
    (step / "config.yaml").write_text(yaml.safe_dump(values))
    assert changes_since(step, TrainConfig()) == []
