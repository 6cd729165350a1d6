"""What a layout needs and takes, by the traces of its pipeline stages."""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.checkpoint_share import CheckpointShare
from megatron_in2.training.arithmetic.gpu_types import Gpu
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.trace.allowance import GIB, allowance
from megatron_in2.training.trace.events import Trace
from megatron_in2.training.trace.summary import flops_by_operation, peaks, traffic
from megatron_in2.training.trace.timeline import play, step_seconds
from megatron_in2.training.trace.traced_row import TracedRow

ONCE_A_STEP = ("data", "embedding", "world")  # groups whose collectives no micro-batch repeats
TraceRank = Callable[[TrainConfig, int, int, int, TracedRow], Trace]
"""Returns the trace of a rank: configuration, rank, world size, micro-batches, row."""


@dataclass(frozen=True)
class StepWork:
    """Memory, work and time of a step: those of the stage that has most.

    Args:
        needed_gib: memory of a GPU, with the allowance for what a trace does not see.
        tflop: a GPU and step.
        sent_gib: a GPU and step.
        seconds: of the step.
        recomputed: share of ``seconds`` that repeats the forward pass.
        waited: share of ``seconds`` in which a GPU waits for collectives, or for its pipeline.
        checkpoint: what the rank that writes most writes and reads.
    """

    needed_gib: float
    tflop: float
    sent_gib: float
    seconds: float
    recomputed: float
    waited: float
    checkpoint: CheckpointShare


def stage_ranks(parallel: ParallelConfig, world_size: int) -> dict[str, int]:
    """Return a rank of every pipeline stage whose trace differs: first, middle and last.

    Each is the first of its stage, which has the last tokens of every sample, and so the most
    answer tokens. Middle stages differ in the micro-batches that they keep; the second one keeps
    most.
    """
    ranks = world_size // parallel.pipeline  # of a stage; they follow each other
    stages = {"first": 0, "middle": 1, "last": parallel.pipeline - 1}
    if parallel.pipeline == 1:
        return {"only": 0}
    if parallel.pipeline == 2:
        del stages["middle"]
    return {name: stage * ranks for name, stage in stages.items()}


def micro_batches_of(config: TrainConfig, world_size: int) -> tuple[int, int]:
    """Return the micro-batches of a step, and how many of them are traced.

    One more than the pipeline keeps shows what each further one adds.
    """
    in_step = config.schedule.global_batch_rows // config.parallel.data_ranks(world_size)
    return in_step, min(in_step, config.parallel.pipeline + 1)


def step_work(
    config: TrainConfig, world_size: int, gpu: Gpu, row: TracedRow, trace_rank: TraceRank
) -> StepWork:
    """Trace the first and the last pipeline stage: the others do and keep less.

    Raises:
        InputError: the configuration cannot be traced.
    """
    in_step, traced = micro_batches_of(config, world_size)
    ranks = stage_ranks(config.parallel, world_size)
    ranks.pop("middle", None)
    traces = [trace_rank(config, rank, world_size, traced, row) for rank in ranks.values()]
    lines = [play(trace.events, gpu) for trace in traces]
    seconds = step_seconds(lines, in_step, config.parallel.pipeline)
    more = in_step / traced
    busiest = max(lines, key=lambda line: line.compute)
    update = busiest.total - busiest.before_update  # once a step
    return StepWork(
        needed_gib=max(map(needed_gib, traces)),
        tflop=more * max(sum(flops_by_operation(each.events).values()) for each in traces) / 1e12,
        sent_gib=max(_sent(trace, more) for trace in traces) / GIB,
        seconds=seconds,
        recomputed=more * busiest.recomputed / seconds,
        # Further micro-batches take what the last one takes, which may be less than the mean.
        waited=max(1 - (more * (busiest.compute - update) + update) / seconds, 0.0),
        checkpoint=max((trace.checkpoint for trace in traces), key=lambda share: share.written),
    )


def needed_gib(trace: Trace) -> float:
    """Return the memory that a card needs for a rank, with the allowance."""
    fullest = max(peaks(trace), key=lambda peak: peak.total)
    return (fullest.total + allowance(trace, fullest).total) / GIB


def _sent(trace: Trace, more: float) -> float:
    """Return the bytes of a step: those of data parallelism once, others for each micro-batch."""
    return sum(
        total.sent * (1 if total.group in ONCE_A_STEP else more)
        for total in traffic(trace.events)
        if total.ranks > 1
    )
