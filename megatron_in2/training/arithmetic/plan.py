"""Ranks parallel layouts for a number of GPUs of one type: what fits, and how long a run takes.

The time is computed, not measured, and is meant for comparing layouts. It consists of the
architecture's FLOPs at the share of the peak that published runs reached, the FLOPs of
recomputation, the pipeline's idle share (stages - 1) / (micro-batches + stages - 1), and tensor-
and context-parallel traffic over the links, without overlap.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.flops import row_flops
from megatron_in2.training.arithmetic.gpu_types import Gpu
from megatron_in2.training.arithmetic.memory import GIB, memory_per_rank
from megatron_in2.training.config import Recompute, TrainConfig

USABLE = 0.9  # of a GPU's memory; the rest goes to the CUDA context, NCCL and fragmentation
SIZES = (1, 2, 4, 8)
SECONDS_A_DAY = 86_400
# FLOPs that recomputation adds, as a share of forward and backward: a forward pass is a third,
# and selective recomputation repeats no matrix product.
RECOMPUTED = {"none": 0.0, "selective": 0.0, "full": 1 / 3}


@dataclass(frozen=True)
class Layout:
    """A parallel layout with its estimated memory (GiB a GPU) and step time (seconds)."""

    parallel: ParallelConfig
    recompute: str
    data_ranks: int
    memory_gib: float
    step_seconds: float
    fits: bool


def rank_layouts(config: TrainConfig, gpus: int, gpu: Gpu) -> list[Layout]:
    """Return every layout that the configuration allows: fitting ones first, fastest first."""
    layouts = [_estimate(each, gpus, gpu) for each in _candidates(config, gpus)]
    return sorted(layouts, key=lambda layout: (not layout.fits, layout.step_seconds))


def as_table(layouts: list[Layout], steps: int) -> str:
    """Return layouts as a Markdown table."""
    lines = [
        "| TP | PP | CP | DP | recompute | GiB a GPU | fits | s a step | days |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for layout in layouts:
        parallel = layout.parallel
        days = layout.step_seconds * steps / SECONDS_A_DAY
        lines.append(
            f"| {parallel.tensor} | {parallel.pipeline} | {parallel.context} | "
            f"{layout.data_ranks} | {layout.recompute} | {layout.memory_gib:.1f} | "
            f"{'yes' if layout.fits else 'no'} | {layout.step_seconds:.1f} | {days:.1f} |"
        )
    return "\n".join(lines)


def _candidates(config: TrainConfig, gpus: int) -> Iterator[TrainConfig]:
    for tensor in SIZES:
        for pipeline in SIZES:
            for context in SIZES:
                for recompute in get_args(Recompute):
                    candidate = replace(
                        config,
                        parallel=ParallelConfig(tensor, pipeline, context, sequence=tensor > 1),
                        runtime=replace(config.runtime, recompute=recompute),
                    )
                    try:
                        candidate.validate(gpus)
                    except InputError:
                        continue
                    yield candidate


def _estimate(config: TrainConfig, gpus: int, gpu: Gpu) -> Layout:
    parallel = config.parallel
    data_ranks = parallel.data_ranks(gpus)
    micro_batches = config.schedule.global_batch_rows // data_ranks
    memory = memory_per_rank(config, gpus).total
    compute = _compute_seconds(config, gpu) + _traffic_seconds(config, gpu)
    busy = micro_batches * compute / parallel.pipeline
    return Layout(
        parallel=parallel,
        recompute=config.runtime.recompute,
        data_ranks=data_ranks,
        memory_gib=memory / GIB,
        step_seconds=busy * (micro_batches + parallel.pipeline - 1) / micro_batches,
        fits=memory <= USABLE * gpu.memory_gib * GIB,
    )


def _compute_seconds(config: TrainConfig, gpu: Gpu) -> float:
    """Return the seconds of one row through the whole model, divided among TP x CP ranks."""
    length, model = config.data.seq_length, config.model
    flops = float(row_flops(model, length, np.array([length**2]))[0])
    flops *= 1 + RECOMPUTED[config.runtime.recompute]
    ranks = config.parallel.tensor * config.parallel.context
    return flops / ranks / (gpu.bf16_tflops * 1e12 * gpu.attained)


def _traffic_seconds(config: TrainConfig, gpu: Gpu) -> float:
    """Return the seconds that one row's activations (bfloat16) take on the links.

    Sequence parallelism gathers and scatters hidden states four times a layer forward and four
    times backward; context parallelism gathers keys and values, and scatters their gradients.
    """
    parallel, model = config.parallel, config.model
    tokens = config.data.seq_length / parallel.context
    hidden = 8 * tokens * model.hidden_size * (parallel.tensor - 1) / parallel.tensor
    keys = 2 * model.num_query_groups * model.head_dim / parallel.tensor
    context = 2 * config.data.seq_length * keys * (parallel.context - 1) / parallel.context
    return model.num_layers * 2 * (hidden + context) / (gpu.link_gb_s * 1e9)
