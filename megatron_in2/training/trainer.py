"""The training loop: when things happen. How they happen stands in the rooms it calls."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_in2.data.dataset import PackedDataset
from megatron_in2.data.order import rows_at
from megatron_in2.parallel.world import World
from megatron_in2.training.batch import Batch, make_batch
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.loss import forward_step, global_sums
from megatron_in2.training.schedule import learning_rate


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step did, the same on every rank.

    ``loss`` is the mean over the step's answer tokens; ``tokens`` counts the rows' tokens,
    padding included; ``seconds`` is wall time.
    """

    step: int
    consumed_rows: int
    loss: float
    learning_rate: float
    grad_norm: float
    answer_tokens: int
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Throughput of all ranks together."""
        return self.tokens / self.seconds

    @property
    def learnt_fraction(self) -> float:
        """Share of the rows' tokens that carried loss; a broken mask shows here at once."""
        return self.answer_tokens / self.tokens


class Callback(Protocol):
    """What watches a run; side effects live here and not in the loop."""

    def on_start(self, trainer: "Trainer") -> None:
        """The run stands and its first step is about to begin."""

    def on_step(self, trainer: "Trainer", metrics: StepMetrics) -> None:
        """A step is done."""

    def on_end(self, trainer: "Trainer") -> None:
        """The last step of this start is done."""


class Trainer:
    """One run, from where it stands to its last step.

    Args:
        step: optimizer steps already done.
        consumed_rows: rows already seen.
        total_steps: optimizer steps of the whole run.
    """

    def __init__(
        self,
        config: TrainConfig,
        world: World,
        model: DistributedDataParallel,
        optimizer: MegatronOptimizer,
        dataset: PackedDataset,
        callbacks: Sequence[Callback],
        step: int,
        consumed_rows: int,
        total_steps: int,
    ) -> None:
        self.config = config
        self.world = world
        self.model = model
        self.optimizer = optimizer
        self.dataset = dataset
        self.callbacks = callbacks
        self.step = step
        self.consumed_rows = consumed_rows
        self.total_steps = total_steps
        self.stop_at = total_steps
        if config.schedule.exit_after_steps:
            self.stop_at = min(total_steps, step + config.schedule.exit_after_steps)
        self._forward_backward = get_forward_backward_func()

    @property
    def epoch(self) -> int:
        """Full passes over the training rows done."""
        return self.consumed_rows // len(self.dataset)

    def fit(self) -> None:
        """Train until the run's last step, or until a callback lowers ``stop_at``."""
        for callback in self.callbacks:
            callback.on_start(self)
        while self.step < self.stop_at:
            metrics = self.train_step()
            for callback in self.callbacks:
                callback.on_step(self, metrics)
        for callback in self.callbacks:
            callback.on_end(self)

    def train_step(self) -> StepMetrics:
        """Do one optimizer step over the next global batch."""
        started = time.perf_counter()
        rows = self.config.schedule.global_batch_rows
        rate = self._set_learning_rate(self.consumed_rows + rows)
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        loss_sum, answer_tokens = self._run(
            self._next_batches(), rows // self.world.data_size, forward_only=False
        )
        _, grad_norm, _ = self.optimizer.step()
        self.step += 1
        self.consumed_rows += rows
        return StepMetrics(
            step=self.step,
            consumed_rows=self.consumed_rows,
            loss=loss_sum / max(answer_tokens, 1),
            learning_rate=rate,
            grad_norm=float(grad_norm),
            answer_tokens=answer_tokens,
            tokens=rows * self.config.data.seq_length,
            seconds=time.perf_counter() - started,
        )

    @torch.no_grad()
    def evaluate(self, dataset: PackedDataset, limit: int) -> float:
        """Return the mean loss over the answer tokens of a dataset's first ``limit`` rows."""
        count = min(limit or len(dataset), len(dataset))
        own = range(self.world.data_rank, count, self.world.data_size)
        self.model.eval()
        sums = (0.0, 0)
        batches = (make_batch(dataset[row], self.world) for row in own)
        sums = self._run(batches, len(own), forward_only=True)
        self.model.train()
        return sums[0] / max(sums[1], 1)

    def _run(
        self, batches: Iterator[Batch], micro_batches: int, forward_only: bool
    ) -> tuple[float, int]:
        reports = self._forward_backward(
            forward_step_func=forward_step,
            data_iterator=batches,
            model=[self.model],
            num_microbatches=micro_batches,
            seq_length=self.config.data.seq_length,
            micro_batch_size=1,  # one packed row
            forward_only=forward_only,
        )
        return global_sums(reports, self.world)

    def _next_batches(self) -> Iterator[Batch]:
        """Yield this data-parallel rank's rows of the next global batch."""
        rows = self.config.schedule.global_batch_rows
        places = np.arange(self.consumed_rows, self.consumed_rows + rows)
        chosen = rows_at(places, len(self.dataset), self.config.runtime.seed)
        for row in chosen[self.world.data_rank :: self.world.data_size]:
            yield make_batch(self.dataset[int(row)], self.world)

    def _set_learning_rate(self, consumed_rows: int) -> float:
        schedule, optimizer = self.config.schedule, self.config.optimizer
        total_rows = self.total_steps * schedule.global_batch_rows
        rate = learning_rate(consumed_rows, total_rows, schedule, optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate
