"""Traces chosen steps of a rank with torch's profiler."""

import os
import sys
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, record_function
from tqdm import tqdm

from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics

FOLDER = "profile"  # in the checkpoint folder


class Profiler(Callback):
    """Writes a Chrome trace of this rank's steps: operators, and kernels on CUDA.

    The trace includes what happens between the steps, such as validation and saving.

    Args:
        folder: the run's checkpoint folder; the trace is written to its ``profile/``.
        steps: the steps to trace. Steps that this start does not reach are left out; if it
            reaches none, nothing is written.
    """

    def __init__(self, folder: Path, steps: range) -> None:
        self._folder = folder / FOLDER
        self._steps = steps
        self._traced: list[int] = []

    def on_start(self, state: TrainingState) -> None:
        activities = [ProfilerActivity.CPU]
        if state.world.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profile = profile(activities=activities)

    def on_step_start(self, state: TrainingState) -> None:
        step = state.step + 1
        if step not in self._steps:
            return
        if not self._traced:
            self._profile.start()
        self._traced.append(step)
        self._mark = record_function(f"step {step}")
        self._mark.__enter__()  # type: ignore[no-untyped-call]

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        if metrics.step not in self._steps:
            return
        self._mark.__exit__(None, None, None)
        if metrics.step in (self._steps[-1], state.stop_at):
            self._write(state.world.rank)

    def _write(self, rank: int) -> None:
        self._profile.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"rank{rank}_steps{self._traced[0]}-{self._traced[-1]}.json.gz"
        partial = self._folder / f".partial-{name}"
        self._profile.export_chrome_trace(str(partial))
        os.replace(partial, self._folder / name)
        tqdm.write(f"step {self._traced[-1]:>6} | traced {self._folder / name}", file=sys.stdout)
