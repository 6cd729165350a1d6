"""Ranks parallel layouts for a number of GPUs of one type: what fits, and how long a run takes.

The time is computed, not measured, and is meant for comparing layouts. It consists of the
architecture's FLOPs at the share of the peak that published runs reached, what recomputation
repeats, the pipeline's idle share (stages - 1) / (micro-batches + stages - 1), and traffic: tensor-
and context-parallel over the links inside a node, data-parallel between nodes, without overlap.
:mod:`megatron_in2.training.trace.planner` traces the layouts that are best by these formulas.
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
RANKS_A_NODE = 8
# Gathers and scatters of hidden states in a layer under sequence parallelism, as a trace counts
# them: 2 + 2 forward, and backward 4 + 2, because inputs are gathered again for their matrices'
# gradients. Full recomputation repeats the forward pass.
COLLECTIVES = {"none": 10, "selective": 10, "full": 14}


@dataclass(frozen=True)
class Layout:
    """A parallel layout with its estimated memory (GiB a GPU) and step time (seconds)."""

    parallel: ParallelConfig
    recompute: Recompute
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
    memory = memory_per_rank(config, gpus)
    compute = _compute_seconds(config, gpu) + _traffic_seconds(config, gpu)
    busy = micro_batches * compute / parallel.pipeline
    idle = (micro_batches + parallel.pipeline - 1) / micro_batches
    return Layout(
        parallel=parallel,
        recompute=config.runtime.recompute,
        data_ranks=data_ranks,
        memory_gib=memory.total / GIB,
        step_seconds=busy * idle + _reduction_seconds(config, memory.gradients, gpus, gpu),
        fits=memory.total <= USABLE * gpu.memory_gib * GIB,
    )


def _compute_seconds(config: TrainConfig, gpu: Gpu) -> float:
    """Return the seconds of one row through the whole model, divided among TP x CP ranks."""
    length, model, recompute = config.data.seq_length, config.model, config.runtime.recompute
    flops = float(row_flops(model, length, np.array([length**2]))[0])
    seconds = flops / (gpu.bf16_tflops * 1e12 * gpu.attained)
    if recompute == "full":
        seconds *= 4 / 3  # a forward pass is a third of both
    if recompute == "selective":
        # Norms read and write 2 x 2 H elements a token and layer, SwiGLU and its product 5 F.
        elements = 4 * model.hidden_size + 5 * model.ffn_hidden_size
        seconds += length * model.num_layers * 2 * elements / (gpu.memory_gb_s * 1e9)
    return seconds / (config.parallel.tensor * config.parallel.context)


def _traffic_seconds(config: TrainConfig, gpu: Gpu) -> float:
    """Return the seconds that one row's activations (bfloat16) take on the links.

    Context parallelism gathers keys and values, and scatters their gradients.
    """
    parallel, model, recompute = config.parallel, config.model, config.runtime.recompute
    tokens = config.data.seq_length / parallel.context
    hidden = tokens * model.hidden_size * (parallel.tensor - 1) / parallel.tensor
    keys = 2 * model.num_query_groups * model.head_dim / parallel.tensor
    context = config.data.seq_length * keys * (parallel.context - 1) / parallel.context
    passes = 3 if recompute == "full" else 2
    elements = COLLECTIVES[recompute] * hidden + passes * context
    return model.num_layers * 2 * elements / (gpu.link_gb_s * 1e9)


def _reduction_seconds(config: TrainConfig, gradients: float, gpus: int, gpu: Gpu) -> float:
    """Return the seconds in which gradients are scattered and new weights gathered, once a step.

    Those of the last layer's gradients and the first layer's weights are not hidden behind others'
    computation.

    Args:
        config: of the run.
        gradients: bytes of this rank's, float32. Weights are half as large.
        gpus: of the run.
        gpu: its type.
    """
    ranks = gpus // (config.parallel.tensor * config.parallel.pipeline)
    if ranks == 1:
        return 0.0
    near = max(RANKS_A_NODE // config.parallel.tensor, 1)  # of them in a node
    is_near = gpus <= RANKS_A_NODE
    bandwidth = gpu.link_gb_s if is_near else min(gpu.link_gb_s, near * gpu.network_gb_s)
    layers = config.model.num_layers / config.parallel.pipeline
    return 1.5 * gradients * (ranks - 1) / ranks / layers / (bandwidth * 1e9)
