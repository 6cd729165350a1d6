"""Reports every step: step lines, a progress bar, the metrics log."""

import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean

from tqdm import tqdm

from megatron_in2.training.callbacks.base import Callback
from megatron_in2.training.callbacks.metrics_log import MetricsLog
from megatron_in2.training.callbacks.mixture import kind_shares
from megatron_in2.training.callbacks.rank_statistics import (
    RankStatistics,
    format_memory,
    fullest,
    gather_statistics,
    name_stragglers,
    rank_statistics,
    spread,
)
from megatron_in2.training.config import LoggingConfig
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.metrics import StepMetrics

PACE_STEPS = 100  # the remaining time is estimated from their mean


class StepReport(Callback):
    """Step lines, a progress bar where stderr is a terminal, and the metrics log.

    Every rank measures; rank 0 gathers, prints and writes.

    Args:
        log: the metrics log; None on all ranks but 0.
        logging: the interval of step lines, and the threshold of slow ranks.
        peak_flops: FLOP/s of one GPU; None where it is unknown, and MFU is left out.
    """

    def __init__(
        self, log: MetricsLog | None, logging: LoggingConfig, peak_flops: float | None
    ) -> None:
        self._log = log
        self._logging = logging
        self._peak_flops = peak_flops
        self._since_line: list[StepMetrics] = []
        self._pace: deque[float] = deque(maxlen=PACE_STEPS)

    def on_start(self, state: TrainingState) -> None:
        self._bar = tqdm(
            total=state.total_steps,
            initial=state.step,
            unit="step",
            disable=self._log is None or not sys.stderr.isatty(),
        )

    def on_step_start(self, state: TrainingState) -> None:
        if not self._pace:
            self._last_end = time.perf_counter()

    def on_step(self, state: TrainingState, metrics: StepMetrics) -> None:
        now = time.perf_counter()  # includes validation and saving since the last step
        self._pace.append(now - self._last_end)
        self._last_end = now
        self._since_line.append(metrics)
        is_line = metrics.step % self._logging.interval_steps == 0
        is_line = is_line or metrics.step in (1, state.stop_at)
        ranks: list[RankStatistics] = []
        if is_line:
            own = rank_statistics(state.world.device, state.own_work)
            ranks = gather_statistics(own, state.world)
        if self._log is not None:
            self._bar.update()
            values = {name: value for name, value in asdict(metrics).items() if name != "step"}
            values |= speed([metrics], state.world.size, self._peak_flops)
            batch = state.config.schedule.global_batch_rows
            values |= kind_shares(state.rows, state.rows_after(metrics.consumed_rows - batch))
            self._log.write(metrics.step, **values, **_rank_values(ranks))
            if is_line:
                self._print_line(state, metrics, ranks)
        if is_line:
            self._since_line = []

    def on_end(self, state: TrainingState) -> None:
        self._bar.close()

    def _print_line(
        self, state: TrainingState, metrics: StepMetrics, ranks: list[RankStatistics]
    ) -> None:
        remaining = (state.total_steps - metrics.step) * fmean(self._pace)
        parts = [
            f"step {metrics.step:>6}/{state.total_steps}",
            f"loss {metrics.loss:.4f}",
            f"lr {metrics.learning_rate:.2e}",
            f"grad norm {metrics.grad_norm:.3f}",
            f"trained on {100 * metrics.trained_fraction:.2f} %",
            *_speed_parts(speed(self._since_line, state.world.size, self._peak_flops)),
            *_rank_parts(ranks),
            f"left {_clock(remaining)}",
        ]
        tqdm.write(" | ".join(parts), file=sys.stdout)
        if slow := name_stragglers(ranks, self._logging.straggler_threshold):
            tqdm.write(f"step {metrics.step:>6} | WARNING {slow}", file=sys.stdout)
        sys.stdout.flush()


def speed(
    steps: Sequence[StepMetrics], ranks: int, peak_flops: float | None = None
) -> dict[str, float]:
    """Return the throughput over steps, by name in the metrics log.

    Tokens and samples are those of all ranks, TFLOP/s are those of one rank. ``dense_`` marks
    Megatron-LM's convention (a row is one causal sample, a logit at every token); without it,
    attention is causal inside each sample and the LM head runs at answer positions.

    Args:
        steps: one or more.
        ranks: world size.
        peak_flops: FLOP/s of one GPU; None leaves MFU out.
    """
    seconds = sum(each.seconds for each in steps)
    per_rank = {
        "": sum(each.flops for each in steps) / seconds / ranks,
        "dense_": sum(each.dense_flops for each in steps) / seconds / ranks,
    }
    values = {
        "tokens_per_second": sum(each.tokens for each in steps) / seconds,
        "samples_per_second": sum(each.samples for each in steps) / seconds,
    }
    values |= {f"{kind}tflops_per_rank": flops / 1e12 for kind, flops in per_rank.items()}
    if peak_flops is not None:
        values |= {f"{kind}mfu": flops / peak_flops for kind, flops in per_rank.items()}
    return values


def _speed_parts(values: dict[str, float]) -> list[str]:
    parts = [
        f"{values['tokens_per_second']:,.0f} tokens/s",
        f"{values['samples_per_second']:,.3g} samples/s",
        f"{values['tflops_per_rank']:.3g} TFLOP/s a rank "
        f"(dense {values['dense_tflops_per_rank']:.3g})",
    ]
    if "mfu" in values:
        parts.append(f"MFU {values['mfu']:.1%} (dense {values['dense_mfu']:.1%})")
    return parts


def _rank_values(ranks: Sequence[RankStatistics]) -> dict[str, float]:
    """Return the ranks' statistics by name in the metrics log; empty without statistics."""
    if not ranks:
        return {}
    values = {f"memory_{kind}_gib": size for kind, size in fullest(ranks).items()}
    times = [each.own_seconds for each in ranks if each.own_seconds is not None]
    if times:
        values |= {"rank_spread": spread(times), "slowest_rank": times.index(max(times))}
    return values


def _rank_parts(ranks: Sequence[RankStatistics]) -> list[str]:
    values = _rank_values(ranks)
    parts = [format_memory(fullest(ranks))]
    if "rank_spread" in values and len(ranks) > 1:
        parts.append(f"slowest rank +{values['rank_spread']:.1%}")
    return parts


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
