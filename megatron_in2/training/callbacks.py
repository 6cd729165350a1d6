"""What watches a run: step lines and logs, validation, checkpoints, signals."""

import json
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

import torch
import torch.distributed as dist
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from megatron_in2.checkpoint.folder import CheckpointState
from megatron_in2.checkpoint.store import CheckpointSaver
from megatron_in2.data.dataset import PackedDataset
from megatron_in2.files import atomic_file
from megatron_in2.tokenizer import Tokenizer
from megatron_in2.training.config import LoggingConfig
from megatron_in2.training.trainer import StepMetrics, Trainer
from megatron_in2.training.validation import validate

METRICS = "metrics.jsonl"


class BaseCallback:
    """A callback that does nothing, to derive from."""

    def on_start(self, trainer: Trainer) -> None:
        pass

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        pass

    def on_end(self, trainer: Trainer) -> None:
        pass


class MetricsLog:
    """Rank 0's record of a run: ``metrics.jsonl`` always, TensorBoard where asked for.

    Lines of steps after the one that is resumed are dropped first, so that each step stands once.
    """

    def __init__(self, folder: Path, resumed_step: int, tensorboard: bool) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS
        kept = _lines_up_to(path, resumed_step) if path.exists() else []
        with atomic_file(path) as stream:
            stream.writelines(kept)
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()
        self._events = (
            SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)
            if tensorboard
            else None
        )

    def write(self, step: int, **values: float) -> None:
        """Record the values of one step."""
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()
        if self._events is not None:
            for name, value in values.items():
                self._events.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()
        if self._events is not None:
            self._events.close()


class StepReport(BaseCallback):
    """Step lines, a progress bar where stderr is a terminal, and the metrics log; rank 0 only."""

    def __init__(self, log: MetricsLog, interval_steps: int) -> None:
        self._log = log
        self._interval_steps = interval_steps

    def on_start(self, trainer: Trainer) -> None:
        self._bar = tqdm(
            total=trainer.total_steps,
            initial=trainer.step,
            unit="step",
            disable=not sys.stderr.isatty(),
        )

    def on_step(self, trainer: Trainer, metrics: StepMetrics) -> None:
        self._bar.update()
        values = asdict(metrics)
        step = values.pop("step")
        self._log.write(step, **values, tokens_per_second=metrics.tokens_per_second)
        if step % self._interval_steps == 0 or step in (1, trainer.stop_at):
            remaining = (trainer.total_steps - step) * metrics.seconds
            speed = metrics.flops / metrics.seconds / trainer.world.size / 1e12
            tqdm.write(
                f"step {step:>6}/{trainer.total_steps} | loss {metrics.loss:.4f} | "
                f"lr {metrics.learning_rate:.2e} | grad norm {metrics.grad_norm:.3f} | "
                f"learnt {100 * metrics.learnt_fraction:.2f} % | "
                f"{metrics.tokens_per_second:,.0f} tokens/s | {speed:.3g} TFLOP/s a rank | "
                f"left {_clock(remaining)}",
                file=sys.stdout,
            )
            sys.stdout.flush()

    def on_end(self, trainer: Trainer) -> None:
        self._bar.close()


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


def _lines_up_to(path: Path, step: int) -> list[str]:
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):  # the torn last line of a killed run
            continue
    return kept


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
