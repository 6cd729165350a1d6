"""Generates answers to a few probes during a run: accuracy by evidence position."""

import json
import sys
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

from megatron_in2.files import atomic_file
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.callbacks.metrics_log import MetricsLog
from megatron_in2.training.config import LoggingConfig
from megatron_in2.training.generation.drafts import AnswerDraft, first_guess
from megatron_in2.training.generation.greedy import answer_greedily
from megatron_in2.training.generation.probe_set import ProbeSet
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.held_out_loss import POSITION_BINS
from megatron_in2.training.step.metrics import StepMetrics

ANSWERS = "probe_answers"  # in the checkpoint folder


class ProbeAccuracy(Callback):
    """Answers the probes at step 0, at an interval and at the end, on all ranks.

    The metrics log gets ``probe_accuracy``, ``probe_accuracy/position_0-12%`` and so on, and what
    it cost: ``probe_seconds`` and ``probe_passes``. The answers themselves are written beside the
    checkpoints, one line a probe, in the form that ``in2 probe score`` reads.

    Args:
        probes: to answer.
        log: the metrics log; None on all ranks but 0.
        logging: the interval, and the longest answer.
        folder: of the checkpoints.
    """

    def __init__(
        self, probes: ProbeSet, log: MetricsLog | None, logging: LoggingConfig, folder: Path
    ) -> None:
        self._set = probes
        self._log = log
        self._logging = logging
        self._folder = folder / ANSWERS
        self._started = 0.0
        self._seconds = 0.0

    def on_start(self, state: TrainingState) -> None:
        self._started = time.perf_counter()
        if state.step == 0:
            self._probe(state)

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        interval = self._logging.probe_interval_steps
        if metrics.step % interval == 0 or metrics.step == state.total_steps:
            self._probe(state)

    def on_end(self, state: TrainingState) -> None:
        if self._log is not None and self._seconds:
            share = 100 * self._seconds / (time.perf_counter() - self._started)
            _say(f"probing took {self._seconds:.1f} s, {share:.1f} % of this start")

    def _probe(self, state: TrainingState) -> None:
        before = time.perf_counter()
        size, end_id = self._logging.probe_new_tokens, self._set.end_id
        drafts = [
            AnswerDraft(probe.prompt, first_guess(probe.answer, size, end_id), end_id)
            for probe in self._set.probes
        ]
        passes = answer_greedily(state, drafts, self._set.pad_id)
        seconds = time.perf_counter() - before
        self._seconds += seconds
        if self._log is not None:
            texts = [self._set.text_of(draft.answer) for draft in drafts]
            self._report(state.step, texts, seconds, passes)

    def _report(self, step: int, texts: list[str], seconds: float, passes: int) -> None:
        assert self._log is not None
        scores = np.array([self._set.score(place, text) for place, text in enumerate(texts)])
        places = np.array([probe.place for probe in self._set.probes])
        values = {"probe_accuracy": float(scores.mean())}
        for part in range(POSITION_BINS):
            start, end = part / POSITION_BINS, (part + 1) / POSITION_BINS
            inside = (places >= start) & (places < end)
            if inside.any():
                name = f"probe_accuracy/position_{100 * start:.0f}-{100 * end:.0f}%"
                values[name] = float(scores[inside].mean())
        self._log.write(step, **values, probe_seconds=seconds, probe_passes=passes)
        with atomic_file(self._folder / f"step_{step:07d}.jsonl") as stream:
            stream.writelines(
                json.dumps({"samples": [text]}, ensure_ascii=False) + "\n" for text in texts
            )
        accuracy = values["probe_accuracy"]
        _say(
            f"step {step:>6} | probe accuracy {accuracy:.4f} | {len(texts)} answers in "
            f"{seconds:.1f} s, {passes} passes"
        )


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()
