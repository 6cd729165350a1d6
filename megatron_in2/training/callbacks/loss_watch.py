"""Warns of skipped steps and of sudden jumps of the loss."""

from collections import deque
from statistics import fmean, stdev

from tqdm import tqdm

from megatron_in2.errors import InputError
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics

WINDOW = 50  # steps whose mean and deviation a loss is compared with
SPIKE_DEVIATIONS = 6.0  # above the mean


class LossWatch(Callback):
    """Warns of skipped steps and loss spikes, naming their rows; ends a run after several skips.

    Args:
        stop_after_skipped: number of skipped steps in a row that ends the run.
    """

    def __init__(self, stop_after_skipped: int) -> None:
        self._stop_after_skipped = stop_after_skipped
        self._skipped_in_a_row = 0
        self._recent: deque[float] = deque(maxlen=WINDOW)

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        """Raise ``InputError``, naming the rows, when too many steps in a row were skipped."""
        if metrics.skipped:
            self._skipped_in_a_row += 1
            _warn(state, metrics, "loss or gradient is not finite, skipped")
            if self._skipped_in_a_row >= self._stop_after_skipped:
                raise InputError(
                    f"step {metrics.step}: loss or gradient was not finite in "
                    f"{self._skipped_in_a_row} steps in a row, last over "
                    f"{_rows_of(state, metrics)}: check the weights the run started from, those "
                    "rows, or lower optimizer.lr; the last checkpoint is complete"
                )
            return
        self._skipped_in_a_row = 0
        if len(self._recent) == WINDOW:
            limit = fmean(self._recent) + SPIKE_DEVIATIONS * stdev(self._recent)
            if metrics.loss > limit:
                _warn(state, metrics, f"loss {metrics.loss:.4f} jumped above {limit:.4f}")
        self._recent.append(metrics.loss)


def _warn(state: TrainingState, metrics: StepMetrics, what: str) -> None:
    if state.world.is_main:
        tqdm.write(f"step {metrics.step:>6} | WARNING {what}; {_rows_of(state, metrics)}")


def _rows_of(state: TrainingState, metrics: StepMetrics) -> str:
    before = metrics.consumed_rows - state.config.schedule.global_batch_rows
    return state.rows.describe(state.rows_after(before))
