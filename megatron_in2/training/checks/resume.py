"""Finds the step that a run goes on from: the newest that is as it was saved, and fits the run."""

from collections.abc import Set
from dataclasses import asdict
from pathlib import Path

from megatron_in2.architectures.config import POSITION_FIELDS
from megatron_in2.checkpoint.folder import (
    CheckpointState,
    complete_steps,
    damaged_steps,
    read_model_config,
    read_state,
)
from megatron_in2.checkpoint.integrity import find_damage
from megatron_in2.errors import InputError
from megatron_in2.training.checks.changes import require_same_function
from megatron_in2.training.config import TrainConfig


def newest_sound_step(
    config: TrainConfig, tokenizer_sha256: str, rows_sha256: str, damaged: Set[str] = frozenset()
) -> tuple[Path, CheckpointState] | None:
    """Look for the step to resume from; large files are not read, only small ones.

    Args:
        config: the run's configuration.
        tokenizer_sha256: of the run's tokenizer.
        rows_sha256: of the run's training rows.
        damaged: names of steps that are known to be damaged.

    Returns:
        The step and its state; None where nothing was saved yet.

    Raises:
        InputError: all steps are damaged, or the newest sound one is of another model or of other
            data than the run.
    """
    folder = Path(config.checkpoint.dir)
    problems = []
    for step in reversed(complete_steps(folder)):
        if step.name in damaged:
            continue
        if problem := find_damage(step, share=None):
            problems.append(f"{step.name}: {problem}")
            continue
        state = read_state(step)
        require_same_model(config, step)
        require_same_function(config, step)
        _require_same_data(config, step, state, tokenizer_sha256, rows_sha256)
        return step, state
    if problems or damaged or damaged_steps(folder):
        found = [*problems, *sorted(damaged), *(step.name for step in damaged_steps(folder))]
        raise InputError(
            f"checkpoint.dir={folder} has no sound checkpoint left ({'; '.join(found)}): restore "
            "one, or move the damaged ones away to start anew"
        )
    return None


def require_same_model(config: TrainConfig, step: Path) -> None:
    """Refuse a step whose tensors belong to another model.

    Raises:
        InputError: naming the field that differs.
    """
    saved, wanted = asdict(read_model_config(step)), asdict(config.model)
    for name, value in saved.items():
        if name not in POSITION_FIELDS and value != wanted[name]:
            raise InputError(
                f"{step} was saved with model.{name}={value}, the configuration has "
                f"{wanted[name]}: leave it out to take the checkpoint's"
            )


def _require_same_data(
    config: TrainConfig,
    step: Path,
    state: CheckpointState,
    tokenizer_sha256: str,
    rows_sha256: str,
) -> None:
    changed = {
        "tokenizer": state.tokenizer_sha256 != tokenizer_sha256,
        "training rows": state.dataset_sha256 != rows_sha256,
        "schedule.global_batch_rows": state.global_batch_rows != config.schedule.global_batch_rows,
        "runtime.seed": state.seed != config.runtime.seed,
    }
    found = [name for name, differs in changed.items() if differs]
    if found and not config.checkpoint.allow_changed_data:
        raise InputError(
            f"{step} was saved with other {' and '.join(found)}: use what it was saved with, "
            "another checkpoint.dir, or checkpoint.allow_changed_data=true"
        )
