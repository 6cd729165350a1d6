"""Saves checkpoints during a run."""

import sys

from tqdm import tqdm

from megatron_in2.checkpoint.folder import CheckpointState
from megatron_in2.checkpoint.store import CheckpointSaver
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics


class Checkpointing(Callback):
    """Saves every so many steps, at the end, and when the run is told to stop."""

    def __init__(self, saver: CheckpointSaver, tokenizer: Tokenizer) -> None:
        self._saver = saver
        self._tokenizer = tokenizer
        self._saved_step = -1
        self._loss: float | None = None

    def on_start(self, state: TrainingState) -> None:
        self._saved_step = state.step

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        self._loss = metrics.loss
        self._saver.poll()
        if metrics.step % state.config.checkpoint.interval_steps == 0:
            self._save(state)

    def on_end(self, state: TrainingState) -> None:
        if state.step != self._saved_step:
            self._save(state)
        self._saver.wait()

    def _save(self, state: TrainingState) -> None:
        config = state.config
        saved = CheckpointState(
            step=state.step,
            consumed_rows=state.consumed_rows,
            epoch=state.epoch,
            global_batch_rows=config.schedule.global_batch_rows,
            seed=config.runtime.seed,
            tokenizer_sha256=self._tokenizer.sha256,
            dataset_sha256=state.rows.sha256,
            loss=self._loss,
        )
        # Without it, this rank gets the other ranks' updates only in the next forward pass.
        state.model.start_param_sync(force_sync=True)
        path = self._saver.save(state.model.module, state.optimizer, saved)
        self._saved_step = state.step
        if state.world.is_main:
            tqdm.write(f"step {state.step:>6} | saving {path}", file=sys.stdout)
