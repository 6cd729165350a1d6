"""Ends a run in an orderly way when a scheduler or a user sends a signal."""

import os
import signal
import sys
import threading

import torch
import torch.distributed as dist
from tqdm import tqdm

from megatron_in2.processes import exit_at_once, heeded_signals
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics


class StopSignals:
    """Receives this rank's stop signals at any moment, also while it waits for others in C++.

    Python runs a signal's handler only between two of its own instructions. A thread therefore
    reads the numbers that the interpreter's C handler writes to a pipe. Until :meth:`remember` is
    called, a signal ends the rank at once (there is nothing to save); afterwards it is remembered.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._is_remembered = False
        self._received: int | None = None
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        heeded = heeded_signals()
        threading.Thread(target=self._take, args=(reader, heeded), daemon=True).start()
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in heeded:
            signal.signal(number, lambda number, frame: None)

    @property
    def received(self) -> int | None:
        """The number of the signal that has arrived since :meth:`remember`, or None."""
        return self._received

    def remember(self) -> None:
        """Remember signals from now on in :attr:`received`: there is something to save."""
        with self._lock:
            self._is_remembered = True

    def _take(self, reader: int, heeded: list[signal.Signals]) -> None:
        while number := os.read(reader, 1):
            if number[0] not in heeded:
                continue
            with self._lock:
                if not self._is_remembered:
                    exit_at_once(number[0], "nothing to save yet")
                if self._received == number[0] == signal.SIGINT:  # Ctrl-C, pressed again
                    exit_at_once(number[0], "the steps since the last checkpoint are not saved")
                self._received = number[0]


class StopOnSignal(Callback):
    """Ends the run, saved, after the step in which any rank got a stop signal."""

    def __init__(self, signals: StopSignals) -> None:
        self.is_requested = False
        self._signals = signals

    def on_step_start(self, state: TrainingState) -> None:
        self._signals.remember()

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        # Ranks get the signal at different moments; they must stop after the same step.
        received = torch.tensor([self._signals.received or 0], device=state.world.device)
        dist.all_reduce(received, op=dist.ReduceOp.MAX)
        if received.item() and state.step < state.stop_at:
            self.is_requested = True
            state.stop_at = state.step
            if state.world.is_main:
                name = signal.Signals(int(received.item())).name
                tqdm.write(f"step {state.step:>6} | stopping on {name}", file=sys.stdout)
