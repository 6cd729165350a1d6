"""The training loop: when things happen. How they happen stands in the rooms it calls."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer.optimizer import MegatronOptimizer
from megatron.core.pipeline_parallel import get_forward_backward_func

from megatron_in2.parallel.world import World
from megatron_in2.training.balance import deal_rows, imbalance
from megatron_in2.training.batch import Batch, make_batch
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.flops import dense_row_flops, loss_flops, row_flops
from megatron_in2.training.loss import ForwardStep, global_sums, make_forward_step, step_report
from megatron_in2.training.rows import RowPlace, TrainingRows
from megatron_in2.training.schedule import learning_rate


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step did, the same on every rank.

    ``loss`` is the global batch's, normalised as configured; ``tokens`` counts the rows' tokens,
    padding included, and ``samples`` the samples in them; ``flops`` are those the loss needs,
    causal and document-aware, LM head and last outputs at answer positions, and ``dense_flops``
    what Megatron-LM counts for the same rows; ``imbalance`` is largest over mean work of the
    data-parallel ranks, less 1; ``seconds`` is wall time. A step is ``skipped`` where its loss or
    gradient was not finite: the weights stay as they were.
    """

    step: int
    consumed_rows: int
    loss: float
    learning_rate: float
    grad_norm: float
    answer_tokens: int
    tokens: int
    samples: int
    flops: float
    dense_flops: float
    imbalance: float
    skipped: bool
    seconds: float

    @property
    def learnt_fraction(self) -> float:
        """Share of the rows' tokens that carried loss; a broken mask shows here at once."""
        return self.answer_tokens / self.tokens


class Callback(Protocol):
    """What watches a run; side effects live here and not in the loop."""

    def on_start(self, trainer: "Trainer") -> None:
        """The run stands and its first step is about to begin."""

    def on_step_start(self, trainer: "Trainer") -> None:
        """A step is about to begin."""

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
        rows: TrainingRows,
        callbacks: Sequence[Callback],
        step: int,
        consumed_rows: int,
        total_steps: int,
    ) -> None:
        self.config = config
        self.world = world
        self.model = model
        self.optimizer = optimizer
        self.rows = rows
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
        return self.consumed_rows // len(self.rows)

    def fit(self) -> None:
        """Train until the run's last step, or until a callback lowers ``stop_at``."""
        for callback in self.callbacks:
            callback.on_start(self)
        while self.step < self.stop_at:
            for callback in self.callbacks:
                callback.on_step_start(self)
            metrics = self.train_step()
            for callback in self.callbacks:
                callback.on_step(self, metrics)
        for callback in self.callbacks:
            callback.on_end(self)

    def train_step(self) -> StepMetrics:
        """Do one optimizer step over the next global batch."""
        started = time.perf_counter()
        model, length = self.config.model, self.config.data.seq_length
        rows = self.rows_after(self.consumed_rows)
        squares = self.rows.attention_costs(rows)
        costs = row_flops(model, length, squares)
        dealt = deal_rows(costs, self.world.data_size)
        rate = self._set_learning_rate(self.consumed_rows + len(rows))
        self.model.zero_grad_buffer()
        self.optimizer.zero_grad()
        reports = self.run_schedule(
            make_forward_step(step_report),
            self._batches([rows[index] for index in dealt[self.world.data_rank]]),
            dealt.shape[1],
            forward_only=False,
        )
        loss_sum, normaliser, answer_tokens = global_sums(reports, 3, self.world).tolist()
        is_updated, grad_norm = self._update(loss_sum)
        self.step += 1
        self.consumed_rows += len(rows)
        return StepMetrics(
            step=self.step,
            consumed_rows=self.consumed_rows,
            loss=loss_sum / max(normaliser, 1),
            learning_rate=rate,
            grad_norm=grad_norm,
            answer_tokens=int(answer_tokens),
            tokens=len(rows) * length,
            samples=self.rows.sample_count(rows),
            flops=loss_flops(model, length, squares, answer_tokens),
            dense_flops=len(rows) * dense_row_flops(model, length),
            imbalance=imbalance(costs, dealt),
            skipped=not is_updated,
            seconds=time.perf_counter() - started,
        )

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
        """Run micro-batches through Megatron-Core's schedule for this layout.

        Returns:
            Each micro-batch's report, on the last pipeline stage; nothing elsewhere.
        """
        return self._forward_backward(  # type: ignore[no-any-return]
            forward_step_func=forward_step,
            data_iterator=batches,
            model=[self.model],
            num_microbatches=micro_batches,
            seq_length=self.config.data.seq_length,
            micro_batch_size=1,  # one packed row
            forward_only=forward_only,
        )

    def _batches(self, places: list[RowPlace]) -> Iterator[Batch]:
        for place in places:
            yield make_batch(self.rows[place], self.world, self.config.optimizer.normalisation)

    def _update(self, loss_sum: float) -> tuple[bool, float]:
        """Step the optimizer, unless loss or gradient is not finite.

        Returns:
            (whether the weights were updated, gradient norm before clipping).
        """
        self.optimizer.prepare_grads()
        grad_norm = float(self.optimizer.get_grad_norm())
        if not (math.isfinite(loss_sum) and math.isfinite(grad_norm)):
            return False, grad_norm
        self.optimizer.step()
        return True, grad_norm

    def _set_learning_rate(self, consumed_rows: int) -> float:
        schedule, optimizer = self.config.schedule, self.config.optimizer
        total_rows = self.total_steps * schedule.global_batch_rows
        rate = learning_rate(consumed_rows, total_rows, schedule, optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate
