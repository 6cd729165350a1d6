"""The learning rate as a pure function of consumed rows."""

import math

from megatron_in2.training.config import OptimizerConfig, ScheduleConfig


def learning_rate(
    consumed_rows: int, total_rows: int, schedule: ScheduleConfig, optimizer: OptimizerConfig
) -> float:
    """Linear warm-up to the peak, then a cosine down to ``min_lr``.

    Args:
        consumed_rows: rows read when the step ends, so that the first step's rate is not 0.
        total_rows: rows of the whole run.
        schedule: has the warm-up.
        optimizer: has the peak and ``min_lr``.
    """
    warmup_rows = schedule.warmup_fraction * total_rows
    if consumed_rows < warmup_rows:
        return optimizer.lr * consumed_rows / warmup_rows
    progress = min((consumed_rows - warmup_rows) / max(total_rows - warmup_rows, 1), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return optimizer.min_lr + (optimizer.lr - optimizer.min_lr) * cosine
