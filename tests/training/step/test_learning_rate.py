"""The learning rate over consumed rows: warm-up, peak, cosine, end."""

import pytest

from megatron_in2.training.config import OptimizerConfig, ScheduleConfig
from megatron_in2.training.step.learning_rate import learning_rate

SCHEDULE = ScheduleConfig(warmup_fraction=0.1)
OPTIMIZER = OptimizerConfig(lr=1.0, min_lr=0.1)


@pytest.mark.parametrize(
    ("rows", "rate"),
    [(1, 0.01), (50, 0.5), (100, 1.0), (550, 0.55), (1000, 0.1), (2000, 0.1)],
)
def test_literal_rates(rows: int, rate: float) -> None:
    assert learning_rate(rows, 1000, SCHEDULE, OPTIMIZER) == pytest.approx(rate)


def test_without_warm_up_it_starts_near_the_peak() -> None:
    rate = learning_rate(1, 1000, ScheduleConfig(warmup_fraction=0.0), OPTIMIZER)
    assert rate == pytest.approx(1.0, abs=1e-4)


def test_steps_are_derived_from_epochs() -> None:
    assert ScheduleConfig(global_batch_rows=64, epochs=2).total_steps(1000) == 31
    assert ScheduleConfig(global_batch_rows=64, steps=5).total_steps(1000) == 5
    assert ScheduleConfig(global_batch_rows=64).total_steps(3) == 1
