"""What acts beside the steps: validation, checkpoints, signals."""

import signal
import sys
from types import FrameType

import torch
import torch.distributed as dist
from tqdm import tqdm

from megatron_in2.checkpoint.folder import CheckpointState
from megatron_in2.checkpoint.store import CheckpointSaver
from megatron_in2.data.dataset import PackedDataset
from megatron_in2.tokenizer import Tokenizer
from megatron_in2.training.config import LoggingConfig
from megatron_in2.training.metrics_log import MetricsLog
from megatron_in2.training.trainer import StepMetrics, Trainer
from megatron_in2.training.validation import validate


class BaseCallback:
    """A callback that does nothing, to derive from."""

    def on_start(self, trainer: Trainer) -> None:
        pass

    def on_step_start(self, trainer: Trainer) -> None:
        pass

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        pass

    def on_end(self, trainer: Trainer) -> None:
        pass


class Validation(BaseCallback):
    """Measures held-out data at the start, every so many steps and at the end, on every rank."""

    def __init__(
        self, name: str, dataset: PackedDataset, log: MetricsLog | None, logging: LoggingConfig
    ) -> None:
        self._name = name
        self._dataset = dataset
        self._log = log
        self._logging = logging

    def on_start(self, trainer: Trainer) -> None:
        if trainer.step == 0:
            self._validate(trainer)

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        interval = self._logging.validation_interval_steps
        if metrics.step % interval == 0 or metrics.step == trainer.total_steps:
            self._validate(trainer)

    def _validate(self, trainer: Trainer) -> None:
        losses = validate(trainer, self._dataset, self._name, self._logging.validation_rows)
        if self._log is not None:
            self._log.write(trainer.step, **losses)
            title = self._name.replace("_", " ")
            line = f"step {trainer.step:>6} | {title} {losses[self._name]:.4f}"
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()


class Checkpointing(BaseCallback):
    """Saves every so many steps, at the end, and when the run is told to stop."""

    def __init__(self, saver: CheckpointSaver, tokenizer: Tokenizer) -> None:
        self._saver = saver
        self._tokenizer = tokenizer
        self._saved_step = -1
        self._loss: float | None = None

    def on_start(self, trainer: Trainer) -> None:
        self._saved_step = trainer.step

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        self._loss = metrics.loss
        self._saver.poll()
        if metrics.step % trainer.config.checkpoint.interval_steps == 0:
            self._save(trainer)

    def on_end(self, trainer: Trainer) -> None:
        if trainer.step != self._saved_step:
            self._save(trainer)
        self._saver.wait()

    def _save(self, trainer: Trainer) -> None:
        config = trainer.config
        state = CheckpointState(
            step=trainer.step,
            consumed_rows=trainer.consumed_rows,
            epoch=trainer.epoch,
            global_batch_rows=config.schedule.global_batch_rows,
            seed=config.runtime.seed,
            tokenizer_sha256=self._tokenizer.sha256,
            dataset_sha256=trainer.rows.sha256,
            loss=self._loss,
        )
        # The other ranks' updates reach this rank's weights only now, or in the next forward pass.
        trainer.model.start_param_sync(force_sync=True)
        path = self._saver.save(trainer.model.module, trainer.optimizer, state)
        self._saved_step = trainer.step
        if trainer.world.is_main:
            tqdm.write(f"step {trainer.step:>6} | saving {path}", file=sys.stdout)


class StopOnSignal(BaseCallback):
    """Ends the run, saved, after the step in which any rank got SIGTERM or SIGUSR1."""

    def __init__(self) -> None:
        self.is_requested = False
        self._received = False

    def on_start(self, trainer: Trainer) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        # Ranks get the signal at different moments; they must stop after the same step.
        received = torch.tensor([int(self._received)], device=trainer.world.device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX)
        if received.item() and trainer.step < trainer.stop_at:
            self.is_requested = True
            trainer.stop_at = trainer.step

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
