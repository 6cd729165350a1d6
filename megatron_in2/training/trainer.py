"""The training loop. One step is in ``step/``, everything around it in ``callbacks/``."""

from collections.abc import Sequence

from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.train_step import train_step


def fit(state: TrainingState, callbacks: Sequence[Callback]) -> None:
    """Train until the last step of this start, or until a callback lowers ``state.stop_at``."""
    for callback in callbacks:
        callback.on_start(state)
    while state.step < state.stop_at:
        for callback in callbacks:
            callback.on_step_start(state)
        metrics = train_step(state)
        for callback in callbacks:
            callback.on_step(state, metrics)
    for callback in callbacks:
        callback.on_end(state)
