"""Runs the largest possible row before the first step, so that a lack of memory shows at once.

The row is one sample of ``data.seq_length`` tokens, the longest span that attention can have. As
many tokens at its end are trained on as in the row of the run's data sets that has most: the LM
head runs only there, so no row needs more logits. (A row that is trained on everywhere would take
about 10 GB more at the sizes of a 7B model, and would refuse runs that fit.) As many micro-batches
run as a pipeline stage keeps at once. The optimizer allocates its moments in its first step; where
they do not exist yet, tensors of their size take their place. The optimizer's own arithmetic runs
after the activations are freed and is not included.

The rehearsal has no effect on the run: gradients are cleared, random states are restored, and no
weight, moment or counter changes.
"""

import sys
import time

import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer
from tqdm import tqdm

from megatron_in2.parallel.random_states import random_states_restored
from megatron_in2.training.build import inner_optimizers
from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.callbacks.rank_statistics import (
    format_memory,
    fullest,
    gather_statistics,
    rank_statistics,
)
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.batch import make_batch
from megatron_in2.training.step.fullest_row import fullest_row
from megatron_in2.training.step.loss import make_forward_step, step_report


def is_rehearsed(wanted: str, device: torch.device) -> bool:
    """Resolve ``runtime.rehearsal``.

    ``auto`` leaves it out on a CPU. The system grants more memory there than exists and kills a
    process instead of refusing an allocation, so a rehearsal would cost a step and tell nothing.
    """
    return wanted == "always" or (wanted == "auto" and device.type == "cuda")


class Rehearsal(Callback):
    """Runs the fullest row through the model, forward and backward, before the first step.

    Args:
        trained_tokens: tokens of that row that are trained on.
    """

    def __init__(self, trained_tokens: int) -> None:
        self._trained_tokens = trained_tokens

    def on_start(self, state: TrainingState) -> None:
        if state.step >= state.stop_at:
            return
        started = time.perf_counter()
        config, world = state.config, state.world
        row = fullest_row(config.data.seq_length, self._trained_tokens)
        batch = make_batch(row, world, config.optimizer.normalisation)
        micro_batches = min(
            config.parallel.pipeline, config.schedule.global_batch_rows // world.data_size
        )
        with random_states_restored(world.device):
            moments = _future_moments(state.optimizer)
            state.model.zero_grad_buffer()  # it also resets the counters of overlapped reduction
            state.run_schedule(
                make_forward_step(step_report),
                iter([batch] * micro_batches),
                micro_batches,
                forward_only=False,
            )
            del moments
        state.model.zero_grad_buffer()
        state.optimizer.zero_grad()
        memory = fullest(gather_statistics(rank_statistics(world.device), world))
        if world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(world.device)
        if world.is_main:
            tqdm.write(
                f"rehearsal   | a row of {config.data.seq_length:,} tokens, "
                f"trained on {self._trained_tokens:,} of them | "
                f"{time.perf_counter() - started:.1f} s | {format_memory(memory)}",
                file=sys.stdout,
            )


def _future_moments(optimizer: MegatronOptimizer) -> list[torch.Tensor]:
    """Allocate what the optimizer's first step will allocate: two moments of each parameter."""
    return [
        torch.empty_like(parameter)
        for inner in inner_optimizers(optimizer)
        for group in inner.param_groups
        for parameter in group["params"]
        if not inner.state.get(parameter)
        for _ in ("exp_avg", "exp_avg_sq")
    ]
