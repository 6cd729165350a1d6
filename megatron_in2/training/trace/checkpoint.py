"""What one rank writes and reads of a checkpoint, by the code that saves and loads it.

The optimizer's parts are those of ``checkpoint/optimizer_state.py``. Which weights a rank writes or
reads is decided by Megatron-Core's own function, by what each data-parallel rank has to write or
read already.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.exchange_utils import distribute_shards_to_ranks
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory, is_main_replica
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.optimizer_state import (
    distributed_optimizer,
    elements_of_owners,
    own_parts,
)
from megatron_in2.checkpoint.store import model_weights
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.training.arithmetic.checkpoint_share import CheckpointShare
from megatron_in2.training.arithmetic.memory import MASTER, MOMENTS

STATE = MASTER + MOMENTS  # bytes an element: all of it is float32
# As Megatron-Core names a part: its tensor, and where it begins there.
Place = tuple[str, tuple[int, ...]]


def own_share(model: AnswerGPTModel, optimizer: MegatronOptimizer) -> CheckpointShare:
    """Return this rank's bytes of tensors of one checkpoint, read in the layout that wrote it.

    A file holds about a kilobyte more for each tensor. On the host, a save holds what it writes
    until it is written; a load holds one tensor at a time.

    Args:
        model: this rank's part.
        optimizer: its state is allocated.
    """
    weights = model_weights(model)
    distributed = distributed_optimizer(optimizer)
    blocks = [block for weight in weights.values() for block in _blocks(weight)]
    parts = [part for named in own_parts(distributed, weights).values() for part in named.values()]
    mains = {weight.data: _is_written(weight) for weight in weights.values()}
    owned = elements_of_owners(distributed)
    written_state = [sum(n for each, n in own.items() if mains[each]) * STATE for own in owned]
    rank = model.pg_collection.dp_cp.rank()
    written = _assigned([each for each in blocks if _is_written(each)], written_state, rank)
    read = _assigned(blocks, [sum(own.values()) * STATE for own in owned], rank)
    sizes = [*map(_nbytes, (*read, *parts))]
    saved = _bytes(written) + _bytes(part for part in parts if is_main_replica(part.replica_id))
    return CheckpointShare(
        written=saved,
        read=sum(sizes),
        received=_bytes(blocks) - _bytes(read),
        host=max(saved, *sizes),
    )


def _assigned(
    blocks: Sequence[ShardedTensor], state: Sequence[int], own: int
) -> list[ShardedTensor]:
    """Return the weights that one data-parallel rank writes or reads.

    Args:
        blocks: weights that all of them have.
        state: bytes of the optimizer's state that each has for itself.
        own: the rank.
    """
    ranks: dict[Place, list[int]] = {_place(block): list(range(len(state))) for block in blocks}
    sizes = {_place(block): _nbytes(block) for block in blocks}
    for rank, size in enumerate(state):  # as a block that this rank alone has
        ranks["", (rank,)], sizes["", (rank,)] = [rank], size
    elsewhere = {_place(block) for block in blocks if not _is_written(block)}
    chosen = distribute_shards_to_ranks(ranks, sizes, len(state), elsewhere)
    return [block for block in blocks if chosen[_place(block)] == own]


def _blocks(weight: Any) -> list[ShardedTensor]:
    """Return a weight's parts: SwiGLU's input has two."""
    return weight.build() if isinstance(weight, ShardedTensorFactory) else [weight]


def _is_written(weight: ShardedTensor | ShardedTensorFactory) -> bool:
    """Return whether this rank's data-parallel group writes a weight.

    Of tensor-parallel ranks that all have it, the first does.
    """
    return bool(is_main_replica((*weight.replica_id[:2], 0)))


def _place(block: ShardedTensor) -> Place:
    return block.key, block.global_offset


def _nbytes(block: ShardedTensor) -> int:
    return int(block.data.numel() * block.data.element_size())


def _bytes(blocks: Iterable[ShardedTensor]) -> int:
    return sum(map(_nbytes, blocks))
