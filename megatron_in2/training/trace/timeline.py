"""The time of a traced step on a GPU: a roofline of its operations and collectives, with overlap.

An operation takes the longest of its arithmetic, its memory traffic and the start of a kernel. All
operations run one after the other. A collective starts when the program has reached its call and
its link is free, and runs beside the operations until the program waits for it. Links are those
inside a node and those between nodes; collectives on the same link follow each other, but what is
received comes beside what is sent.

The card's figures are from ``gpus.yaml``; the shares and latencies below are assumptions. Not
counted: what overlapped kernels take from each other, the host's own time, and waiting for slower
ranks.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_in2.training.arithmetic.gpu_types import Gpu
from megatron_in2.training.trace.events import (
    Collective,
    Event,
    MicroBatchEnd,
    Operation,
    Phase,
    Wait,
)

RANKS_A_NODE = 8
MEMORY_SHARE = 0.85
"""Of a card's memory bandwidth that elementwise kernels reach."""
LINK_SHARE = 0.8
"""Of a link's bandwidth that NCCL's rings reach: 368 of 450 GB/s on eight H200
(github.com/stas00/ml-engineering, network/benchmarks)."""
KERNEL_SECONDS = 5e-6
COLLECTIVE_SECONDS = 20e-6
_NO_KERNEL = ("empty", "new_empty", "set_")
_ATTENTION = ("attn", "attention")  # in the names of its kernels
_FLASH = ("varlen", "flash")
_MESSAGES = ("send", "receive")


@dataclass(frozen=True)
class Timeline:
    """Seconds of one rank's traced step.

    Args:
        compute: in which operations run.
        recomputed: part of ``compute`` that repeats the forward pass.
        links: in which each kind of link is busy: ``node`` or ``network``.
        ends: moments at which a micro-batch's forward pass ends.
        before_update: moment at which the last backward pass ends.
        total: the whole step.
    """

    compute: float
    recomputed: float
    links: dict[str, float]
    ends: tuple[float, ...]
    before_update: float
    total: float

    @property
    def waited(self) -> float:
        """Seconds in which the GPU does nothing but wait for collectives."""
        return self.total - self.compute


def play(events: Sequence[Event], gpu: Gpu) -> Timeline:
    """Return when things happen in a traced step on such a card."""
    now = before_update = compute = recomputed = 0.0
    links: defaultdict[str, float] = defaultdict(float)
    free: defaultdict[str, float] = defaultdict(float)  # moments from which links are free
    done: dict[int, float] = {}  # moments at which collectives end
    ends = []
    phase: Phase = "forward"
    for place, event in enumerate(events):
        match event:
            case Operation():
                phase, seconds = event.phase, operation_seconds(event, gpu)
                now += seconds
                compute += seconds
                recomputed += seconds if event.is_recomputed else 0.0
            case Collective() if len(event.ranks) > 1 and event.name != "barrier":
                phase, (link, seconds) = event.phase, collective_seconds(event, gpu)
                links[link] += seconds
                lane = f"{link} in" if event.name == "receive" else link
                free[lane] = done[place] = max(now, free[lane]) + seconds
            case Wait() if event.collective in done:
                now = max(now, done[event.collective])
            case MicroBatchEnd():
                ends.append(now)
        if phase != "update":
            before_update = now
    return Timeline(
        compute=compute,
        recomputed=recomputed,
        links=dict(links),
        ends=tuple(ends),
        before_update=before_update,
        total=max([now, *free.values()]),
    )


def operation_seconds(operation: Operation, gpu: Gpu) -> float:
    """Return the roofline of one kernel."""
    if operation.name.startswith(_NO_KERNEL):
        return 0.0
    attained = gpu.matrix_attained
    if any(part in operation.name for part in _ATTENTION):
        attained = gpu.attention_share(any(part in operation.name for part in _FLASH))
    return max(
        operation.flops / (gpu.bf16_tflops * 1e12 * attained),
        operation.moved / (gpu.memory_gb_s * 1e9 * MEMORY_SHARE),
        KERNEL_SECONDS,
    )


def collective_seconds(collective: Collective, gpu: Gpu) -> tuple[str, float]:
    """Return the link that a collective uses, and its seconds.

    Ranks of the same node share the traffic of their group to other nodes: each has an adapter.
    """
    by_node = Counter(rank // RANKS_A_NODE for rank in collective.ranks)
    link, bandwidth = "node", gpu.link_gb_s
    if len(by_node) > 1:
        members = 1 if collective.name in _MESSAGES else max(by_node.values())
        link, bandwidth = "network", min(gpu.link_gb_s, gpu.network_gb_s * members)
    passed = collective.size if collective.name in _MESSAGES else collective.sent
    return link, COLLECTIVE_SECONDS + passed / (bandwidth * 1e9 * LINK_SHARE)


def step_seconds(stages: Sequence[Timeline], micro_batches: int, pipeline: int) -> float:
    """Return the seconds of a step from the timelines of its pipeline stages.

    Args:
        stages: of every stage, or one for all that do the same.
        micro_batches: of the step; the traced ones may be fewer.
        pipeline: number of stages.
    """
    longest = max(
        line.total + (micro_batches - len(line.ends)) * _micro_batch_seconds(line, pipeline)
        for line in stages
    )
    # 1F1B: each stage waits for so many micro-batches while the pipeline fills and empties.
    idle = pipeline - 1
    return longest + idle * max(_micro_batch_seconds(line, pipeline) for line in stages)


def _micro_batch_seconds(line: Timeline, pipeline: int) -> float:
    """Return the seconds of one more micro-batch.

    Once the pipeline is full, there is one backward and one forward pass between the ends of two
    forward passes. Collectives of data parallelism run beside the first and the last.
    """
    if len(line.ends) > pipeline:
        return line.ends[-1] - line.ends[-2]
    return line.before_update / len(line.ends)
