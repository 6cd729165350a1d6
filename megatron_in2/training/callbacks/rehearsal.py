"""A step before the first, over the fullest row there can be, to run out of memory at once.

The row is one sample of ``data.seq_length`` tokens, so attention sees as far as it ever will, and
it has as many learnt tokens, at its end, as the fullest row of the run's data sets: the LM head
makes logits for learnt tokens alone, and no row can need more of them. (A row learnt from end to
end would take some 10 GB more at a 7B's sizes, and would refuse runs that fit.) As many
micro-batches run as a pipeline stage holds at once. The optimizer makes its moments in its first
step only: where they are still to come, tensors of their size stand in for them. Its own
arithmetic, which comes after the activations are gone, is not rehearsed.

Nothing is left of it: gradients are cleared, states of random generators put back, and no weight,
moment or count is touched.
"""

import sys
import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from megatron.core.optimizer.optimizer import MegatronOptimizer
from tqdm import tqdm

from megatron_in2.data.packed.dataset import PackedDataset, Row
from megatron_in2.data.packed.manifest import SAMPLE_RECORD
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
from megatron_in2.training.step.loss import make_forward_step, step_report


def is_rehearsed(wanted: str, device: torch.device) -> bool:
    """Resolve ``runtime.rehearsal``.

    ``auto`` leaves it out on a CPU: memory there is lent beyond what exists, and where it ends the
    system kills instead of refusing, so the rehearsal would cost a step and say nothing.
    """
    return wanted == "always" or (wanted == "auto" and device.type == "cuda")


def fullest_row(seq_length: int, learnt_tokens: int) -> Row:
    """Return a made-up row of one sample whose last tokens are learnt."""
    mask = np.zeros(seq_length, np.uint8)
    mask[seq_length - learnt_tokens :] = 1
    records = np.zeros(1, SAMPLE_RECORD)
    records["length"] = seq_length
    return Row(
        index=-1,
        tokens=np.zeros(seq_length, np.int64),
        loss_mask=mask,
        lengths=[seq_length],
        records=records,
    )


def most_learnt_tokens(datasets: Sequence[PackedDataset]) -> int:
    """Return the learnt tokens of the row that has most; reads one number a row."""
    return max(int(dataset.rows["learnt_tokens"].max()) for dataset in datasets)


class Rehearsal(Callback):
    """Runs the fullest row through the model, forward and backward, before the first step.

    Args:
        learnt_tokens: of that row.
    """

    def __init__(self, learnt_tokens: int) -> None:
        self._learnt_tokens = learnt_tokens

    def on_start(self, state: TrainingState) -> None:
        if state.step >= state.stop_at:
            return
        started = time.perf_counter()
        config, world = state.config, state.world
        row = fullest_row(config.data.seq_length, self._learnt_tokens)
        batch = make_batch(row, world, config.optimizer.normalisation)
        micro_batches = min(
            config.parallel.pipeline, config.schedule.global_batch_rows // world.data_size
        )
        with random_states_restored(world.device):
            moments = _moments_to_come(state.optimizer)
            state.model.zero_grad_buffer()  # also what overlapping reduction counts by
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
                f"{self._learnt_tokens:,} of them learnt | "
                f"{time.perf_counter() - started:.1f} s | {format_memory(memory)}",
                file=sys.stdout,
            )


def _moments_to_come(optimizer: MegatronOptimizer) -> list[torch.Tensor]:
    """Allocate what the optimizer's first step will: AdamW's two moments of each parameter."""
    return [
        torch.empty_like(parameter)
        for inner in inner_optimizers(optimizer)
        for group in inner.param_groups
        for parameter in group["params"]
        if not inner.state.get(parameter)
        for _ in ("exp_avg", "exp_avg_sq")
    ]
