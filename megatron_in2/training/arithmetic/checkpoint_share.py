"""Each rank's share of a checkpoint: bytes that it writes and reads, and host memory meanwhile.

The data-parallel ranks of a part of the model divide its weights, and each has its own part of the
optimizer's state, so the shares of all ranks are one checkpoint. On a GPU a save copies a rank's
share to the host, from where a helper process writes it while training continues. A load reads one
stored tensor after the other, in the same shares where the layout is the one that saved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.memory import MASTER, MOMENTS, memory_per_rank
from megatron_in2.training.config import TrainConfig

GB = 1e9


@dataclass(frozen=True)
class CheckpointShare:
    """Bytes of one rank, on the first pipeline stage, which has the embedding.

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
    """Return a rank's share of one checkpoint."""
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


def shares_as_table(config: TrainConfig, world_size: int, layouts: Sequence[ParallelConfig]) -> str:
    """Return the share of one rank in each layout as a Markdown table."""
    lines = [
        "| TP | PP | CP | DP | checkpoint: GB a rank writes | reads | receives | host GB a rank |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for parallel in layouts:
        share = checkpoint_share(replace(config, parallel=parallel), world_size)
        lines.append(
            f"| {parallel.tensor} | {parallel.pipeline} | {parallel.context} | "
            f"{parallel.data_ranks(world_size)} | {share.written / GB:.2f} | "
            f"{share.read / GB:.2f} | {share.received / GB:.2f} | {share.host / GB:.2f} |"
        )
    return "\n".join(lines)
