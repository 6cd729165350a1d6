"""Makes a run the only one that writes to its checkpoint folder."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch.distributed as dist
from tqdm import tqdm

from megatron_in2.checkpoint.lease import Lease, take_lease, this_process
from megatron_in2.errors import InputError
from megatron_in2.parallel.world import World
from megatron_in2.training.config import TrainConfig


@contextlib.contextmanager
def own_checkpoints(config: TrainConfig, world: World) -> Iterator[None]:
    """Hold ``checkpoint.dir`` while the block runs; rank 0 does it for all.

    Raises:
        InputError: on every rank: another run holds it.
    """
    lease: Lease | None = None
    problem: list[str | None] = [None]
    if world.is_main:
        try:
            lease = take_lease(Path(config.checkpoint.dir), this_process())
        except InputError as error:
            problem = [str(error)]
    dist.broadcast_object_list(problem)
    if problem[0] is not None:
        raise InputError(problem[0])
    if lease is not None and lease.taken_from is not None:
        warning = f"checkpoint.dir was held by {lease.taken_from}, which is gone: taken over"
        tqdm.write(f"WARNING {warning}", file=sys.stderr)
    try:
        yield
    finally:
        if lease is not None:
            lease.release()
