"""How much of its time a run trains when GPUs fail, and how often it should save.

Failures are independent and equally likely at any moment (exponential, the sum of all GPUs'
rates). A failure costs the work since the last checkpoint and a recovery, in which the next failure
may happen. With rate r, interval t, checkpoint d and recovery R (seconds), an interval takes

    e^(rR) (e^(r(t + d)) - 1) / r

on average (Daly, 10.1016/j.future.2004.11.016), so that the effective training time ratio (ETTR)
is t over that. It is largest where 1 - rt = e^(-r(t + d)); for rare failures that is Young's
sqrt(2d/r).
"""

import math
from dataclasses import dataclass

from megatron_in2.errors import InputError

SECONDS_A_DAY = 86_400
REQUEUE_SECONDS = 480.0  # four nodes, Slurm's default limits: docs/cluster.md
RESTART_SECONDS = 45.0  # of a restart inside the job: an upper limit, docs/resilience.md
HARDWARE_SHARE = 0.78  # of Llama 3's unexpected stops: without a spare node they need a requeue


@dataclass(frozen=True)
class PublishedRate:
    """Failures that stopped a published run.

    Args:
        per_gpu_day: unexpected stops for each GPU and day.
        source: what it is computed from.
    """

    per_gpu_day: float
    source: str


PUBLISHED = {
    "llama3": PublishedRate(
        419 / (54 * 16_384),
        "Llama 3 405B (arXiv 2407.21783): 419 unexpected stops, 54 days, 16,384 GPUs",
    ),
    "bloom": PublishedRate(
        1.5 / (7 * 384), "BLOOM (arXiv 2211.05100): 1 to 2 GPU failures a week, 384 GPUs"
    ),
    "opt": PublishedRate(
        105 / (60 * 992),
        "OPT-175B (arXiv 2205.01068): 35 manual and 70 automatic restarts, 2 months, 992 GPUs",
    ),
}


@dataclass(frozen=True)
class Outlook:
    """What a way to recover is worth.

    Args:
        recovery: its name.
        recovery_seconds: from a failure to the next new step.
        interval_seconds: the best time between two checkpoints.
        ettr: share of the time in which steps are made that count.
    """

    recovery: str
    recovery_seconds: float
    interval_seconds: float
    ettr: float


def parse_rate(text: str) -> PublishedRate:
    """Read a number of failures for each GPU and day, or the name of a published run.

    Raises:
        InputError: it is neither.
    """
    if text in PUBLISHED:
        return PUBLISHED[text]
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 < rate < math.inf:
        raise InputError(
            f"--failures-per-gpu-day {text}: write a number above 0 or one of "
            f"{', '.join(PUBLISHED)}"
        )
    return PublishedRate(rate, "as given")


def effective_time(rate: float, interval: float, checkpoint: float, recovery: float) -> float:
    """Return the ETTR.

    Args:
        rate: failures of the whole run a second.
        interval: seconds of training between two checkpoints.
        checkpoint: seconds that training stops for one.
        recovery: seconds from a failure until training goes on.
    """
    return (
        rate * interval / (math.exp(rate * recovery) * math.expm1(rate * (interval + checkpoint)))
    )


def best_interval(rate: float, checkpoint: float) -> float:
    """Return the seconds between two checkpoints at which the ETTR is largest."""
    low, high = 0.0, 1.0  # of rate * interval
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if -math.expm1(-middle - rate * checkpoint) > middle:
            low = middle
        else:
            high = middle
    return low / rate


def outlooks(
    gpus: int, per_gpu_day: float, checkpoint: float, recovery: float | None = None
) -> list[Outlook]:
    """Return what a run of so many GPUs loses by each way to recover.

    Args:
        gpus: GPUs of the run.
        per_gpu_day: failures for each GPU and day.
        checkpoint: seconds that training stops for one.
        recovery: seconds of the user's own recovery; None compares requeue, restart inside the
            job, and restart with spare nodes.
    """
    ways = {"as given": recovery} if recovery is not None else _ways()
    rate = gpus * per_gpu_day / SECONDS_A_DAY
    interval = best_interval(rate, checkpoint)
    return [
        Outlook(name, seconds, interval, effective_time(rate, interval, checkpoint, seconds))
        for name, seconds in ways.items()
    ]


def outlooks_as_table(found: list[Outlook]) -> str:
    """Return outlooks as a Markdown table."""
    lines = [
        "| recovery | s | best interval, min | ETTR | lost a day, min |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {each.recovery} | {each.recovery_seconds:.0f} | {each.interval_seconds / 60:.1f} | "
        f"{100 * each.ettr:.2f} % | {(1 - each.ettr) * SECONDS_A_DAY / 60:.1f} |"
        for each in found
    ]
    return "\n".join(lines)


def _ways() -> dict[str, float]:
    without_spare = HARDWARE_SHARE * REQUEUE_SECONDS + (1 - HARDWARE_SHARE) * RESTART_SECONDS
    return {
        "requeue": REQUEUE_SECONDS,
        "restart inside the job": without_spare,
        "restart with spare nodes": RESTART_SECONDS,
    }
