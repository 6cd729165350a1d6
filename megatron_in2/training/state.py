"""What exists of a run between its steps: its objects and how far it is."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_in2.parallel.world import World
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.batch import Batch
from megatron_in2.training.step.loss import ForwardStep
from megatron_in2.training.step.own_work import OwnWork
from megatron_in2.training.step.rows import RowPlace, TrainingRows


@dataclass
class TrainingState:
    """One run on this rank. The trainer advances it; callbacks read it.

    Args:
        config: the resolved configuration.
        world: this rank's place.
        model: this rank's part of the model, wrapped for data parallelism.
        optimizer: the distributed optimizer.
        rows: the training rows.
        own_work: measures this rank's own part of every step.
        step: optimizer steps done.
        consumed_rows: rows seen.
        total_steps: optimizer steps of the whole run.
        stop_at: the step after which this start ends; a callback may lower it.
    """

    config: TrainConfig
    world: World
    model: DistributedDataParallel
    optimizer: MegatronOptimizer
    rows: TrainingRows
    own_work: OwnWork
    step: int
    consumed_rows: int
    total_steps: int
    stop_at: int

    @property
    def epoch(self) -> int:
        """Full passes over the training rows done."""
        return self.consumed_rows // len(self.rows)

    def rows_after(self, consumed_rows: int) -> list[RowPlace]:
        """Return the next global batch's rows, the same on every rank and in every layout."""
        return self.rows.at(consumed_rows + np.arange(self.config.schedule.global_batch_rows))

    def run_schedule(
        self,
        forward_step: ForwardStep,
        batches: Iterator[Batch],
        micro_batches: int,
        forward_only: bool,
    ) -> list[torch.Tensor]:
        """Run micro-batches; see :func:`run_schedule`."""
        length = self.config.data.seq_length
        return run_schedule(self.model, length, forward_step, batches, micro_batches, forward_only)


def run_schedule(
    model: DistributedDataParallel,
    seq_length: int,
    forward_step: ForwardStep,
    batches: Iterator[Batch],
    micro_batches: int,
    forward_only: bool,
) -> list[torch.Tensor]:
    """Run micro-batches of one row each through Megatron-Core's schedule for this layout.

    Returns:
        Each micro-batch's report, on the last pipeline stage; nothing elsewhere.
    """
    return get_forward_backward_func()(  # type: ignore[no-any-return]
        forward_step_func=forward_step,
        data_iterator=batches,
        model=[model],
        num_microbatches=micro_batches,
        seq_length=seq_length,
        micro_batch_size=1,
        forward_only=forward_only,
    )
