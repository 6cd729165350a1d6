"""The interface of callbacks."""

from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics


class Callback:
    """Base class. All side effects of a run are in callbacks; override the hooks you need.

    Every rank calls every hook of every callback, in the same order.
    """

    def on_start(self, state: TrainingState) -> None:
        """Run once, after everything is built and before the first step of this start."""

    def on_step_start(self, state: TrainingState) -> None:
        """Run before a step."""

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        """Run after a step."""

    def on_end(self, state: TrainingState) -> None:
        """Run once, after the last step of this start."""
