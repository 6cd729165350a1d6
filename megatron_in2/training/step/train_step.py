"""One optimizer step: assign the rows, run forward and backward, reduce, update."""

import math
import time
from collections.abc import Iterator

from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.training.arithmetic.flops import dense_row_flops, loss_flops, row_flops
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.balance import assign_rows, imbalance
from megatron_in2.training.step.batch import Batch, make_batch
from megatron_in2.training.step.learning_rate import learning_rate
from megatron_in2.training.step.loss import global_sums, make_forward_step, step_report
from megatron_in2.training.step.metrics import StepMetrics
from megatron_in2.training.step.rows import RowPlace


def train_step(state: TrainingState) -> StepMetrics:
    """Do one optimizer step on the next global batch, and advance the state.

    A step whose loss or gradient is not finite leaves the weights as they are.
    """
    started = time.perf_counter()
    state.own_work.start()
    config, world = state.config, state.world
    model, length = config.model, config.data.seq_length
    rows = state.rows_after(state.consumed_rows)
    squares = state.rows.attention_costs(rows)
    costs = row_flops(model, length, squares)
    assigned = assign_rows(costs, world.data_size)
    rate = _set_learning_rate(state, state.consumed_rows + len(rows))
    state.model.zero_grad_buffer()
    state.optimizer.zero_grad()
    reports = state.run_schedule(
        make_forward_step(step_report),
        _batches(state, [rows[index] for index in assigned[world.data_rank]]),
        assigned.shape[1],
        forward_only=False,
    )
    loss_sum, normaliser, answer_tokens = global_sums(reports, 3, world).tolist()
    is_updated, grad_norm = update_weights(state.optimizer, loss_sum)
    state.step += 1
    state.consumed_rows += len(rows)
    return StepMetrics(
        step=state.step,
        consumed_rows=state.consumed_rows,
        loss=loss_sum / max(normaliser, 1),
        learning_rate=rate,
        grad_norm=grad_norm,
        answer_tokens=int(answer_tokens),
        tokens=len(rows) * length,
        samples=state.rows.sample_count(rows),
        flops=loss_flops(model, length, squares, answer_tokens),
        dense_flops=len(rows) * dense_row_flops(model, length),
        imbalance=imbalance(costs, assigned),
        skipped=not is_updated,
        seconds=time.perf_counter() - started,
    )


def _batches(state: TrainingState, places: list[RowPlace]) -> Iterator[Batch]:
    for place in places:
        yield make_batch(state.rows[place], state.world, state.config.optimizer.normalisation)


def update_weights(optimizer: MegatronOptimizer, loss_sum: float) -> tuple[bool, float]:
    """Step the optimizer, unless loss or gradient is not finite.

    Returns:
        (whether the weights were updated, gradient norm before clipping).
    """
    optimizer.prepare_grads()
    grad_norm = float(optimizer.get_grad_norm())
    if not (math.isfinite(loss_sum) and math.isfinite(grad_norm)):
        return False, grad_norm
    optimizer.step()
    return True, grad_norm


def _set_learning_rate(state: TrainingState, consumed_rows: int) -> float:
    schedule, optimizer = state.config.schedule, state.config.optimizer
    total_rows = state.total_steps * schedule.global_batch_rows
    rate = learning_rate(consumed_rows, total_rows, schedule, optimizer)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    return rate
