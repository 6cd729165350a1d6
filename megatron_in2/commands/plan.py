r"""Rank parallel layouts for so many GPUs of a type: memory, step time, days.

Examples:
    %(prog)s --config configs/film7b.yaml --gpus 128 --gpu-type a100-80g
    %(prog)s --config configs/film7b.yaml --gpus 1024 --gpu-type h100 --failures-per-gpu-day llama3

Formulas choose layouts, then each is traced (train --dry-run --trace): its memory, its work, and
the roofline of its time. That takes some 10 seconds of one core a layout, once: traces are kept in
--traces. --formulas does without. No GPU is needed; gpus.yaml has the types of GPU, and the sources
of their figures.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.errors import InputError
from megatron_in2.training.arithmetic.checkpoint_share import checkpoint_share, shares_as_table
from megatron_in2.training.arithmetic.failures import (
    PUBLISHED,
    SECONDS_A_DAY,
    outlooks,
    outlooks_as_table,
    parse_rate,
)
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, Gpu, read_gpu
from megatron_in2.training.arithmetic.plan import Layout, as_table, rank_layouts
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.trace.planner import TracedLayout, trace_best, traced_as_table
from megatron_in2.training.trace.stored import TraceStore, default_folder

PAPER_ROWS = 820_000  # packed rows of the paper's 1.75 M samples: 12.8 K steps of 64


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__, TrainConfig)
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of the run")
    parser.add_argument("--gpu-type", required=True, help="a type of gpus.yaml")
    parser.add_argument("--rows", type=int, default=PAPER_ROWS, help="training rows")
    parser.add_argument("--top", type=int, default=5, help="layouts to show")
    parser.add_argument("--formulas", action="store_true", help="trace nothing")
    parser.add_argument("--samples", type=int, default=1, help="samples of a traced row")
    parser.add_argument(
        "--traces", default="", help="folder of traces; else ~/.cache/megatron_in2/traces"
    )
    parser.add_argument(
        "--failures-per-gpu-day",
        help=f"also plan for failures: a number, or {', '.join(PUBLISHED)}",
    )
    parser.add_argument("--recovery", type=float, help="seconds from a failure to the next step")
    parser.add_argument(
        "--checkpoint-seconds", type=float, default=2.0, help="seconds that a save stops training"
    )
    options = parser.read(arguments)
    config = config_of(options, TrainConfig)
    gpu = read_gpu(GPU_TYPES, options.gpu_type)
    layouts = rank_layouts(config, options.gpus, gpu)
    if not layouts:
        raise InputError(
            f"no layout of {options.gpus} GPUs fits schedule.global_batch_rows="
            f"{config.schedule.global_batch_rows} and the model's sizes: change one of them"
        )
    steps = config.schedule.total_steps(options.rows)
    how = f"{options.gpus} x {options.gpu_type}, {steps:,} steps; best of {len(layouts)} layouts"
    traced = [] if options.formulas else _trace(options, config, gpu, layouts)
    if traced:
        print(f"{how}, by trace; a row in {options.samples} sample(s)\n")
        print(traced_as_table(traced, steps))
    else:
        print(f"{how}, by formula{'' if options.formulas else ': none fits'}\n")
        print(as_table(layouts[: options.top], steps))
    shares = {each.parallel: each.work.checkpoint for each in traced} or {
        each.parallel: checkpoint_share(replace(config, parallel=each.parallel), options.gpus)
        for each in layouts[: options.top]
    }
    print(f"\n{shares_as_table(shares.items(), options.gpus)}")
    if options.failures_per_gpu_day is not None:
        print(f"\n{_failures(options)}")


def _trace(
    options: Any, config: TrainConfig, gpu: Gpu, layouts: list[Layout]
) -> list[TracedLayout]:
    folder = Path(options.traces) if options.traces else default_folder()
    store = TraceStore(folder, on_run=lambda text: print(text, file=sys.stderr, flush=True))
    return trace_best(config, options.gpus, gpu, layouts, options.top, store.trace, options.samples)


def _failures(options: Any) -> str:
    for name, lowest in (("checkpoint_seconds", 1e-3), ("recovery", 0.0)):
        value = getattr(options, name)
        if value is not None and not lowest <= value < SECONDS_A_DAY:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {value}: from {lowest:g} to below {SECONDS_A_DAY}")
    rate = parse_rate(options.failures_per_gpu_day)
    found = outlooks(options.gpus, rate.per_gpu_day, options.checkpoint_seconds, options.recovery)
    hours = 24 / (rate.per_gpu_day * options.gpus)
    return (
        f"{rate.per_gpu_day:.2e} failures a GPU and day ({rate.source}): one every {hours:,.1f} h "
        f"on {options.gpus} GPUs\n\n{outlooks_as_table(found)}"
    )


if __name__ == "__main__":
    run_command(main)
