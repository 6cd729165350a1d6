"""Ranks layouts by their traces: real memory, FLOPs and traffic instead of formulas.

The formulas of :mod:`megatron_in2.training.arithmetic.plan` choose which layouts are traced: of
each the recomputation that costs least among those which fit.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.gpu_types import Gpu
from megatron_in2.training.arithmetic.plan import SECONDS_A_DAY, Layout
from megatron_in2.training.config import Recompute, TrainConfig
from megatron_in2.training.trace.layout import StepWork, TraceRank, step_work
from megatron_in2.training.trace.traced_row import traced_row

TRIES = 3  # layouts that are traced for each one wanted, at most


@dataclass(frozen=True)
class TracedLayout:
    """A layout that fits, and what its trace shows."""

    parallel: ParallelConfig
    recompute: Recompute
    data_ranks: int
    work: StepWork


def trace_best(
    config: TrainConfig,
    gpus: int,
    gpu: Gpu,
    ranked: list[Layout],
    top: int,
    trace_rank: TraceRank,
    samples: int = 1,
) -> list[TracedLayout]:
    """Trace layouts in the order of the formulas until ``top`` of them fit; fastest first.

    Args:
        config: of the run; its layout and recomputation are replaced.
        gpus: of the run.
        gpu: their type.
        ranked: layouts by the formulas, best first.
        top: how many are wanted.
        trace_rank: returns the trace of a rank.
        samples: of each row.

    Raises:
        InputError: the configuration cannot be traced.
    """
    found: list[TracedLayout] = []
    layouts = list(dict.fromkeys(each.parallel for each in ranked if _may_fit(each, gpu)))
    for parallel in layouts[: TRIES * top]:
        if len(found) == top:
            break
        modes = [each for each in ranked if each.parallel == parallel and _may_fit(each, gpu)]
        for layout in sorted(modes, key=lambda each: _MODES.index(each.recompute)):
            runtime = replace(config.runtime, recompute=layout.recompute)
            candidate = replace(config, parallel=parallel, runtime=runtime)
            row = traced_row(candidate, samples)
            work = step_work(candidate, gpus, gpu, row, trace_rank)
            if work.needed_gib <= gpu.memory_gib:
                found.append(TracedLayout(parallel, layout.recompute, layout.data_ranks, work))
                break
    return sorted(found, key=lambda each: each.work.seconds)


_MODES: tuple[Recompute, ...] = get_args(Recompute)  # cheapest first


def _may_fit(layout: Layout, gpu: Gpu) -> bool:
    """The formula leaves out what the allowance of a trace adds, and is a few percent off."""
    return layout.memory_gib <= gpu.memory_gib


def traced_as_table(layouts: list[TracedLayout], steps: int) -> str:
    """Return layouts as a Markdown table."""
    return "\n".join(_lines(layouts, steps))


def _lines(layouts: list[TracedLayout], steps: int) -> Iterator[str]:
    yield (
        "| TP | PP | CP | DP | recompute | GiB a GPU | TFLOP | GiB sent | recomputes | waits | "
        "s a step | days |"
    )
    yield "|" + "---|" * 12
    for layout in layouts:
        parallel, work = layout.parallel, layout.work
        yield (
            f"| {parallel.tensor} | {parallel.pipeline} | {parallel.context} | "
            f"{layout.data_ranks} | {layout.recompute} | {work.needed_gib:.1f} | "
            f"{work.tflop:,.0f} | {work.sent_gib:.0f} | {work.recomputed:.1%} | "
            f"{work.waited:.1%} | {work.seconds:.2f} | "
            f"{work.seconds * steps / SECONDS_A_DAY:.2f} |"
        )
