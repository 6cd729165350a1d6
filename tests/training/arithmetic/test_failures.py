"""The share of time that counts: the formula against a simulation, the best interval, the rates."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.errors import InputError
from megatron_in2.training.arithmetic.failures import (
    PUBLISHED,
    SECONDS_A_DAY,
    best_interval,
    effective_time,
    outlooks,
    parse_rate,
)

LLAMA3 = PUBLISHED["llama3"].per_gpu_day


def _simulate(rate: float, interval: float, checkpoint: float, recovery: float) -> float:
    """Train interval by interval while failures strike at random moments; return the ETTR."""
    chance = random.Random(5)
    clock, failure, done = 0.0, chance.expovariate(rate), 0
    while done < 60_000:
        if clock + interval + checkpoint <= failure:
            clock += interval + checkpoint
            done += 1
            continue
        while True:
            clock = failure + recovery
            failure += chance.expovariate(rate)
            if failure >= clock:
                break
    return done * interval / clock


@pytest.mark.parametrize(
    ("rate", "interval", "checkpoint", "recovery"),
    [(1 / 3600, 600, 30, 300), (1 / 3600, 2400, 60, 45), (1 / 900, 300, 10, 480)],
)
def test_the_formula_is_what_a_simulation_gives(
    rate: float, interval: float, checkpoint: float, recovery: float
) -> None:
    simulated = _simulate(rate, interval, checkpoint, recovery)
    assert effective_time(rate, interval, checkpoint, recovery) == pytest.approx(
        simulated, rel=0.01
    )
    # The controls: each of the three losses is seen.
    assert effective_time(rate, interval, 0, recovery) > 1.015 * simulated
    assert effective_time(rate, interval, checkpoint, 0) > 1.01 * simulated
    assert effective_time(rate, 1.0, 0.0, recovery) > 1.05 * simulated


@given(mean_hours=st.floats(0.1, 1e4), checkpoint=st.floats(0.01, 300), factor=st.floats(0.2, 5.0))
def test_no_other_interval_is_better(mean_hours: float, checkpoint: float, factor: float) -> None:
    rate = 1 / (3600 * mean_hours)
    best = best_interval(rate, checkpoint)
    other = effective_time(rate, factor * best, checkpoint, 60)
    assert effective_time(rate, best, checkpoint, 60) >= other * (1 - 1e-9)
    if rate * checkpoint < 1e-4:
        assert best == pytest.approx(math.sqrt(2 * checkpoint / rate), rel=0.01)  # Young


def test_1024_gpus_reach_99_percent_with_spare_nodes() -> None:
    hours = SECONDS_A_DAY / (1024 * LLAMA3) / 3600
    assert hours == pytest.approx(49.5, abs=0.1)
    requeue, restart, spares = outlooks(1024, LLAMA3, checkpoint=2.0)
    assert requeue.ettr < restart.ettr < spares.ettr
    assert spares.ettr >= 0.99
    (slow,) = outlooks(1024, LLAMA3, checkpoint=60.0, recovery=512.0)
    assert slow.ettr == pytest.approx(0.9712, abs=5e-4)


@pytest.mark.parametrize("text", ["often", "0", "-1", "nan", "inf"])
def test_a_rate_is_a_number_or_a_published_run(text: str) -> None:
    assert parse_rate("0.001").per_gpu_day == 0.001
    with pytest.raises(InputError, match="llama3, bloom, opt"):
        parse_rate(text)
