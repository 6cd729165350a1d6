"""Writes a run's metrics: ``metrics.jsonl``, and optionally TensorBoard and Weights & Biases."""

import json
from dataclasses import asdict
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from megatron_in2.checkpoint.folder import METRICS
from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file
from megatron_in2.training.callbacks.wandb_run import WandbRun
from megatron_in2.training.config import TrainConfig


class MetricsLog:
    """The metrics of a run, in its checkpoint folder; only rank 0 has one.

    A resumed run first removes the lines of later steps, so that the file has each step once.

    Args:
        config: the resolved configuration.
        resumed_step: the step that is resumed; 0 for a new run.
    """

    def __init__(self, config: TrainConfig, resumed_step: int) -> None:
        folder = Path(config.checkpoint.dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._path = path = folder / METRICS
        kept = _lines_up_to(path, resumed_step) if path.exists() else []
        with atomic_file(path) as stream:
            stream.writelines(kept)
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        logging = config.logging
        self._events = (
            SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
            if logging.tensorboard
            else None
        )
        self._wandb = (
            WandbRun(logging.wandb_project, folder, asdict(config))
            if logging.wandb_project
            else None
        )

    def write(self, step: int, **values: float) -> None:
        """Append the values of one step.

        Raises:
            InputError: the file cannot be written; the message has its path.
        """
        try:
            self._stream.write(json.dumps({"step": step, **values}) + "\n")
            self._stream.flush()
        except OSError as error:
            raise InputError(
                f"{self._path} could not be written: {error.strerror}: free some space or name "
                "another checkpoint.dir, and start again: the newest complete step is resumed from"
            ) from error
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.write(step, values)

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()
        if self._events is not None:
            self._events.close()
        if self._wandb is not None:
            self._wandb.close()


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):  # the incomplete last line of a killed run
            continue
    return kept
