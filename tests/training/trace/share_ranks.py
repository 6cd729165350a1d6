"""One rank that saves a step and loads it again.

Usage: share_ranks.py FOLDER CONFIG. FOLDER gets the step ``step``, and ``read-RANK.txt``: the bytes
of the tensors that the rank has read from it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing

from megatron_in2.checkpoint.optimizer_state import prepare_to_load
from megatron_in2.checkpoint.store import load_checkpoint, save_strategy, sharded_state
from megatron_in2.parallel.replaced import replaced
from tests.rank_state import built_rank


def main() -> None:
    folder, file = Path(sys.argv[1]), sys.argv[2]
    with built_rank(file) as (rank, state):
        module, optimizer = state.model.module, state.optimizer
        prepare_to_load(optimizer, [{"step": 3}])
        step = folder / "step"
        if rank.index == 0:
            step.mkdir()
        dist.barrier()
        dist_checkpointing.save(sharded_state(module, optimizer), str(step), save_strategy(module))
        sizes: list[int] = []
        load = torch.load

        def noted_load(*arguments: Any, **options: Any) -> Any:
            value = load(*arguments, **options)
            if isinstance(value, torch.Tensor):
                sizes.append(value.nbytes)
            return value

        with replaced({torch: {"load": noted_load}}):
            load_checkpoint(step, module, optimizer)
        (folder / f"read-{rank.index}.txt").write_text(str(sum(sizes)))


if __name__ == "__main__":
    main()
