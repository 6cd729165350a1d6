"""Measures the loss on held-out data during a run."""

import sys

from tqdm import tqdm

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.callbacks.metrics_log import MetricsLog
from megatron_in2.training.config import LoggingConfig
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.held_out_loss import held_out_loss
from megatron_in2.training.step.metrics import StepMetrics


class Validation(Callback):
    """Measures the held-out loss at step 0, at an interval and at the end, on all ranks.

    Args:
        name: of the measure in the metrics log, such as ``validation_loss``.
        dataset: the held-out rows.
        log: the metrics log; None on all ranks but 0.
        logging: the interval, and how many rows are measured.
    """

    def __init__(
        self, name: str, dataset: PackedDataset, log: MetricsLog | None, logging: LoggingConfig
    ) -> None:
        self._name = name
        self._dataset = dataset
        self._log = log
        self._logging = logging

    def on_start(self, state: TrainingState) -> None:
        if state.step == 0:
            self._validate(state)

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        interval = self._logging.validation_interval_steps
        if metrics.step % interval == 0 or metrics.step == state.total_steps:
            self._validate(state)

    def _validate(self, state: TrainingState) -> None:
        losses = held_out_loss(state, self._dataset, self._name, self._logging.validation_rows)
        if self._log is not None:
            self._log.write(state.step, **losses)
            title = self._name.replace("_", " ")
            line = f"step {state.step:>6} | {title} {losses[self._name]:.4f}"
            tqdm.write(line, file=sys.stdout)
            sys.stdout.flush()
