"""Each rank's share of a checkpoint: bytes that it writes and reads, and host memory meanwhile.

The data-parallel ranks of a part of the model divide its weights, and each has its own part of the
optimizer's state, so the shares of all ranks are one checkpoint. On a GPU a save copies a rank's
share to the host, from where a helper process writes it while training continues. A load reads one
stored tensor after the other, in the same shares where the layout is the one that saved.

The formula here divides evenly. ``training/trace/checkpoint.py`` counts what the code that saves
would write.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.memory import MASTER, MOMENTS, memory_per_rank
from megatron_in2.training.config import TrainConfig

GB = 1e9


@dataclass(frozen=True)
class CheckpointShare:
    """Bytes of tensors of one rank.

    Args:
        written: by a save.
        read: from the disk, at a start in the layout that saved.
        received: weights of other data-parallel ranks, at a start.
        host: memory on the host while a save is written.
    """

    written: float
    read: float
    received: float
    host: float


def checkpoint_share(config: TrainConfig, world_size: int) -> CheckpointShare:
    """Return the share of a rank on the first pipeline stage, which has the embedding."""
    memory, parallel = memory_per_rank(config, world_size), config.parallel
    owners = parallel.data_ranks(world_size) * parallel.context  # of one part of the model
    width = 2 if config.runtime.dtype == "bfloat16" else 4
    state = memory.weights / width * (MASTER + MOMENTS)
    share = (memory.weights + state) / owners
    return CheckpointShare(
        written=share,
        read=share,
        received=memory.weights * (owners - 1) / owners,
        host=share,
    )


def shares_as_table(
    shares: Iterable[tuple[ParallelConfig, CheckpointShare]], world_size: int
) -> str:
    """Return the share of one rank in each layout as a Markdown table."""
    lines = [
        "| TP | PP | CP | DP | checkpoint: GB a rank writes | reads | receives | host GB a rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for parallel, share in shares:
        lines.append(
            f"| {parallel.tensor} | {parallel.pipeline} | {parallel.context} | "
            f"{parallel.data_ranks(world_size)} | {share.written / GB:.2f} | "
            f"{share.read / GB:.2f} | {share.received / GB:.2f} | {share.host / GB:.2f} |"
        )
    return "\n".join(lines)
