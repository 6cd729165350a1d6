"""What a user should know of a run that is allowed to start: changes, rows left out, its end."""

from pathlib import Path

from megatron_in2.training.checks.changes import changes_since
from megatron_in2.training.checks.preflight import RunInputs
from megatron_in2.training.config import TrainConfig


def notes_on_run(config: TrainConfig, inputs: RunInputs) -> list[str]:
    """Return one line for each thing worth knowing; none for an ordinary run."""
    notes = _notes_on_rows(config, inputs.rows, inputs.total_steps)
    if inputs.resume_from is not None:
        step, state = inputs.resume_from
        notes += [f"resumed with another {change}" for change in changes_since(step, config)]
        if state.step >= inputs.total_steps:
            notes.append(_end(step, state.step, inputs.total_steps))
    return notes


def _notes_on_rows(config: TrainConfig, rows: int, total_steps: int) -> list[str]:
    batch, wanted = config.schedule.global_batch_rows, config.schedule.epochs * rows
    if batch > rows:
        return [
            f"schedule.global_batch_rows={batch} is more than the {rows:,} rows of data.train: "
            "every step has some rows twice"
        ]
    left_out = wanted - total_steps * batch
    if config.schedule.steps or not left_out:
        return []
    return [
        f"{left_out:,} of {wanted:,} rows of schedule.epochs={config.schedule.epochs} are left "
        f"out: they fill no batch of {batch}"
    ]


def _end(step: Path, done: int, total: int) -> str:
    beyond = f", which has {total:,} steps" if done > total else ""
    return f"the run is finished{beyond}: step {done:,} is in {step}; nothing is trained"
