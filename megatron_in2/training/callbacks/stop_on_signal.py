"""Ends a run in order when a scheduler or a user asks for it."""

import signal
from types import FrameType

import torch
import torch.distributed as dist

from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics


class StopOnSignal(Callback):
    """Ends the run, saved, after the step in which any rank got SIGTERM or SIGUSR1."""

    def __init__(self) -> None:
        self.is_requested = False
        self._received = False

    def on_start(self, state: TrainingState) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self._receive)

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        # Ranks get the signal at different moments; they must stop after the same step.
        received = torch.tensor([int(self._received)], device=state.world.device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX)
        if received.item() and state.step < state.stop_at:
            self.is_requested = True
            state.stop_at = state.step

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self._received = True
