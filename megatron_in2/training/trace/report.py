"""The text of ``train.py --dry-run --trace``."""

from collections.abc import Iterator, Sequence

from megatron_in2.training.arithmetic.checkpoint_share import GB
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpus
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.trace.allowance import GIB, allowance
from megatron_in2.training.trace.events import Kind, Trace
from megatron_in2.training.trace.layout import (
    TraceRank,
    micro_batches_of,
    stage_ranks,
)
from megatron_in2.training.trace.summary import (
    Peak,
    flops_by_operation,
    holders,
    peaks,
    traffic,
)
from megatron_in2.training.trace.timeline import play, step_seconds
from megatron_in2.training.trace.traced_row import traced_backend, traced_row

HOLDERS = 8  # shown
KINDS: tuple[Kind, ...] = (
    "weights",
    "gradients",
    "optimizer",
    "activations",
    "head",
    "temporaries",
    "other",
)


def trace_report(
    config: TrainConfig, world_size: int, trace_rank: TraceRank, samples: int = 1
) -> str:
    """Trace one rank of every kind of pipeline stage, and describe what each does.

    Args:
        config: of the run. Its rows are as full as the fullest of ``data.train``, if that is set.
        world_size: ranks of the job.
        trace_rank: returns the trace of a rank.
        samples: of each row.

    Raises:
        InputError: the configuration does not fit the world, or cannot be traced.
    """
    config.validate(world_size)
    row = traced_row(config, samples)
    in_step, traced = micro_batches_of(config, world_size)
    lines = [
        f"traced          {traced} of {in_step} micro-batches of a step; rows of "
        f"{row.length:,} tokens in {samples} sample{'s' if samples > 1 else ''}, trained on the "
        f"last {row.trained:,}; backend {traced_backend(config)}"
    ]
    traces = []
    for stage, rank in stage_ranks(config.parallel, world_size).items():
        traces.append(trace_rank(config, rank, world_size, traced, row))
        lines.append(f"\nrank {rank} of {world_size}, {stage} pipeline stage")
        lines += _describe(traces[-1], traced)
    return "\n".join([*lines, *_times(config, world_size, traces, in_step)])


def _times(
    config: TrainConfig, world_size: int, traces: Sequence[Trace], in_step: int
) -> Iterator[str]:
    tokens = config.schedule.global_batch_rows * config.data.seq_length / world_size
    yield (
        f"\n{'roofline of a step, s':<24}{'step':>9}{'computes':>10}{'recomputes':>12}{'waits':>9}"
        f"{'in node':>9}{'network':>9}   (of the traced stage that takes longest)"
    )
    for name, gpu in read_gpus(GPU_TYPES).items():
        played = [play(trace.events, gpu) for trace in traces]
        line = max(played, key=lambda each: each.total)
        step = step_seconds(played, in_step, config.parallel.pipeline)
        links = (line.links.get(link, 0.0) for link in ("node", "network"))
        yield (
            f"{name:<24}{step:>9.2f}{line.compute:>10.2f}{line.recomputed:>12.2f}"
            f"{line.waited:>9.2f}{''.join(f'{seconds:>9.2f}' for seconds in links)}"
            f"   {tokens / step:,.0f} tokens/s a GPU"
        )


def _describe(trace: Trace, micro_batches: int) -> Iterator[str]:
    found = peaks(trace)
    fullest = max(found, key=lambda peak: peak.total)
    yield from _memory(found)
    yield f"\nheld most in the fullest moment ({fullest.phase}), all layers together:"
    for each in holders(trace, fullest.moment)[:HOLDERS]:
        yield (
            f"{each.size / GIB:9.2f} GiB in {each.count:>4} blocks  {each.kind:<11}  "
            f"{each.operation}  {each.module}"
        )
    yield from _fits(trace, fullest)
    yield f"\n{'TFLOP a micro-batch':<52} {'forward and backward':>9}"
    flops = flops_by_operation(trace.events)
    for name, count in sorted(flops.items(), key=lambda item: -item[1]):
        yield f"  {name:<50} {count / micro_batches / 1e12:>9.1f}"
    yield f"  {'sum':<50} {sum(flops.values()) / micro_batches / 1e12:>9.1f}"
    yield (
        f"\n{'collective':<16} {'group':<10} {'ranks':>5} {'calls':>6} {'GiB':>8} {'GiB sent':>9}"
        f"   in {micro_batches} micro-batches and the update"
    )
    for total in traffic(trace.events):
        yield (
            f"{total.name:<16} {total.group:<10} {total.ranks:>5} {total.calls:>6} "
            f"{total.size / GIB:>8.2f} {total.sent / GIB:>9.2f}"
        )
    share = trace.checkpoint
    yield (
        f"\ncheckpoint, GB   writes {share.written / GB:.3f}, reads {share.read / GB:.3f} and "
        f"receives {share.received / GB:.3f} at a start; host memory {share.host / GB:.3f}"
    )


def _memory(found: list[Peak]) -> Iterator[str]:
    yield "peak, GiB       " + "".join(f"{kind:>13}" for kind in (*KINDS, "sum"))
    for peak in found:
        sizes = [peak.kinds.get(kind, 0) / GIB for kind in KINDS]
        yield f"{peak.phase:<16}" + "".join(f"{size:>13.2f}" for size in (*sizes, peak.total / GIB))
    if host := max(peak.kinds.get("host", 0) for peak in found):
        yield f"host memory     {host / GIB:.2f} GiB"


def _fits(trace: Trace, fullest: Peak) -> Iterator[str]:
    unseen = allowance(trace, fullest)
    needed = (fullest.total + unseen.total) / GIB
    yield (
        f"\nneeded          {needed:.1f} GiB: {fullest.total / GIB:.1f} traced, and an assumed "
        f"{unseen.context / GIB:.1f} for CUDA, {unseen.communicators / GIB:.1f} for NCCL, "
        f"{unseen.fragmentation / GIB:.1f} for fragmentation"
    )
    for name, gpu in read_gpus(GPU_TYPES).items():
        answer = "fits" if needed <= gpu.memory_gib else "does not fit"
        yield f"{name:<16}{answer} in {gpu.memory_gib:.1f} GiB"
