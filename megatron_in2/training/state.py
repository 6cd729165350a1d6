"""The state of a run between its steps: its objects and its progress."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_in2.parallel.world import World
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.pulse import Pulse
from megatron_in2.training.step.batch import Batch
from megatron_in2.training.step.loss import ForwardStep
from megatron_in2.training.step.own_work import OwnWork
from megatron_in2.training.step.rows import RowPlace, TrainingRows


@dataclass
class TrainingState:
    """One run on this rank. The training step advances it; callbacks read it.

    Args:
        config: the resolved configuration.
        world: this rank's place.
        model: this rank's part of the model, wrapped for data parallelism.
        optimizer: the distributed optimizer.
        rows: the training rows.
        own_work: measures the time of this rank's own work in every step.
        step: optimizer steps done.
        consumed_rows: training rows read by all ranks since step 0.
        total_steps: optimizer steps of the whole run.
        stop_at: the step after which this start ends; a callback may lower it.
        pulse: beats with every micro-batch.
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
    pulse: Pulse = field(default_factory=Pulse)

    @property
    def epoch(self) -> int:
        """Number of complete passes over the training rows."""
        return self.consumed_rows // len(self.rows)

    def rows_after(self, consumed_rows: int) -> list[RowPlace]:
        """Return the rows of the global batch after ``consumed_rows``, the same in every layout."""
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
        beating = self._beating(batches)
        return run_schedule(self.model, length, forward_step, beating, micro_batches, forward_only)

    def _beating(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.pulse.step = self.step
            self.pulse.beat()
            yield batch


def run_schedule(
    model: DistributedDataParallel,
    seq_length: int,
    forward_step: ForwardStep,
    batches: Iterator[Batch],
    micro_batches: int,
    forward_only: bool,
) -> list[torch.Tensor]:
    """Run micro-batches of one row each through Megatron-Core's schedule for this layout.

    Args:
        model: the wrapped model.
        seq_length: tokens of a row.
        forward_step: from :func:`make_forward_step`.
        batches: this rank's micro-batches.
        micro_batches: how many.
        forward_only: leave out the backward pass.

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
