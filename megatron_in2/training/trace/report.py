"""The text of ``train.py --dry-run --trace``."""

from collections.abc import Iterator

from megatron_in2.data.packed.blend import parse_blend
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpus
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.fullest_row import fullest_row, most_trained_tokens
from megatron_in2.training.trace.allowance import GIB, allowance
from megatron_in2.training.trace.events import Kind, Trace
from megatron_in2.training.trace.program import run_rank, stage_ranks
from megatron_in2.training.trace.summary import (
    Peak,
    flops_by_operation,
    holders,
    peaks,
    traffic,
)

TRAINED_TOKENS = 512  # of a row, where no data set is named; a packed row has a few short answers
MAX_MICRO_BATCHES = 4  # of a step that is traced, unless the pipeline keeps more
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


def trace_report(config: TrainConfig, world_size: int, samples: int = 1) -> str:
    """Trace one rank of every kind of pipeline stage, and describe what each does.

    Args:
        config: of the run. Its rows are as full as the fullest of ``data.train``, if that is set.
        world_size: ranks of the job.
        samples: of each row.

    Raises:
        InputError: the configuration does not fit the world, or cannot be traced.
    """
    config.validate(world_size)
    trained = TRAINED_TOKENS
    if config.data.train:
        prefixes = [prefix for _, prefix in parse_blend(config.data.train)]
        trained = most_trained_tokens([PackedDataset(prefix) for prefix in prefixes])
    length, parallel = config.data.seq_length, config.parallel
    trained = min(trained, length)
    row = fullest_row(length, trained, samples, parallel.sample_multiple)
    in_step = config.schedule.global_batch_rows // parallel.data_ranks(world_size)
    micro_batches = min(in_step, max(MAX_MICRO_BATCHES, parallel.pipeline))
    lines = [
        f"traced          {micro_batches} of {in_step} micro-batches of a step; rows of {length:,} "
        f"tokens in {samples} sample{'s' if samples > 1 else ''}, trained on the last {trained:,}; "
        "torch backend"
    ]
    for stage, rank in stage_ranks(parallel, world_size).items():
        trace = run_rank(config, rank, world_size, micro_batches, row)
        lines.append(f"\nrank {rank} of {world_size}, {stage} pipeline stage")
        lines += _describe(trace, micro_batches)
    return "\n".join(lines)


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
