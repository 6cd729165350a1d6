"""The interface of everything that acts beside the steps."""

from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics


class Callback:
    """Side effects of a run live in callbacks, not in the loop. Override what is needed."""

    def on_start(self, state: TrainingState) -> None:
        """Act once, when everything is built and the first step of this start is next."""

    def on_step_start(self, state: TrainingState) -> None:
        """Act before a step."""

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        """Act after a step."""

    def on_end(self, state: TrainingState) -> None:
        """Act once, after the last step of this start."""
