"""What the steps of a run are trained on, by kind of sample: a warning, and values to log."""

import sys

import numpy as np
from tqdm import tqdm

from megatron_in2.data.packed.manifest import PADDING_KIND
from megatron_in2.data.packed.mixture import Mixture
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.rows import RowPlace, TrainingRows

MAX_KINDS = 16  # whose shares are logged, those with the most trained tokens
STEPS = 128  # that are measured before the first one, spread over the run
FEWEST_ROWS = 16  # of a step; smaller ones differ, however rows are packed
FEWEST_STEPS = 8


def kind_shares(rows: TrainingRows, places: list[RowPlace]) -> dict[str, float]:
    """Return each kind's share of the trained tokens of rows, by name in the metrics log."""
    trained = rows.trained_by_kind(places).sum(axis=0)
    shares = (trained / max(trained.sum(), 1)).tolist()
    named = zip(rows.kinds[:MAX_KINDS], shares, strict=False)
    return {f"trained_share/{kind}": share for kind, share in named if kind != PADDING_KIND}


class LumpyDataWarning(Callback):
    """Warns before the first step if the steps of the run are unlike one another.

    It reads the records of some steps' rows, no tokens.
    """

    def on_start(self, state: TrainingState) -> None:
        batch = state.config.schedule.global_batch_rows
        steps = np.unique(np.linspace(state.step, state.total_steps - 1, STEPS, dtype=np.int64))
        if not state.world.is_main or batch < FEWEST_ROWS or len(steps) < FEWEST_STEPS:
            return
        first_rows = state.consumed_rows + (steps - state.step) * batch
        places = state.rows.at((first_rows[:, None] + np.arange(batch)).ravel())
        trained = state.rows.trained_by_kind(places).reshape(len(steps), batch, -1).sum(axis=1)
        if lumps := Mixture(state.rows.kinds, trained).lumps():
            tqdm.write(
                f"data        | WARNING {'; '.join(lumps)}: pack it again, or merge it alone, with "
                "preprocess_in2.py, which mixes kinds evenly (inspect_dataset.py --mixture)",
                file=sys.stdout,
            )
