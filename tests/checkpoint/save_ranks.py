"""One rank that saves a random optimizer state in two forms, and loads both.

Usage: save_ranks.py FOLDER CONFIG. FOLDER gets the steps ``own`` (as this package saves) and
``gathered`` (Megatron-Core's gathered form, as former versions saved), and ``whole.pt``: the state
of all ranks in one piece, as rank 0 gathers it.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.optimizer_state import distributed_optimizer, prepare_to_load
from megatron_in2.checkpoint.store import (
    load_checkpoint,
    model_weights,
    save_strategy,
    sharded_state,
)
from tests.rank_state import built_rank

STEP = 9
METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}
KINDS = ("param", "exp_avg", "exp_avg_sq")


def state_tensors(optimizer: MegatronOptimizer) -> list[torch.Tensor]:
    """Return master weights and moments that this rank owns, of every parameter."""
    inner = distributed_optimizer(optimizer).optimizer
    return [
        tensor.detach()
        for group in inner.param_groups
        for each in group["params"]
        for tensor in (each, inner.state[each]["exp_avg"], inner.state[each]["exp_avg_sq"])
    ]


def whole_state(optimizer: MegatronOptimizer) -> dict[str, torch.Tensor]:
    """Return each kind of state of all data-parallel ranks in one piece."""
    gathered = distributed_optimizer(optimizer).get_parameter_state_dp_zero(
        return_on_all_ranks=True
    )
    (buffer,) = gathered[0].values()
    return {kind: buffer[kind] for kind in KINDS}


def main() -> None:
    folder, file = Path(sys.argv[1]), sys.argv[2]
    with built_rank(file) as (rank, state):
        module, optimizer = state.model.module, state.optimizer
        prepare_to_load(optimizer, [{"step": STEP}])
        generator = torch.Generator().manual_seed(rank.index)
        for tensor in state_tensors(optimizer):
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
        state.model.start_param_sync(force_sync=True)  # the weights are those of their owners
        for name in ("own", "gathered"):
            if rank.index == 0:
                (folder / name).mkdir()
        dist.barrier()
        saved = {
            "own": (sharded_state(module, optimizer), save_strategy(module)),
            "gathered": (_gathered(module, optimizer), None),
        }
        for name, (sharded, strategy) in saved.items():
            dist_checkpointing.save(sharded, str(folder / name), strategy)
        whole = whole_state(optimizer)
        if rank.index == 0:
            torch.save(whole, folder / "whole.pt")
        expected = [tensor.clone() for tensor in state_tensors(optimizer)]
        for name in saved:
            for tensor in state_tensors(optimizer):
                tensor.zero_()
            load_checkpoint(folder / name, module, optimizer)
            found = state_tensors(optimizer)
            assert all(map(torch.equal, found, expected)), f"rank {rank.index}: {name} differs"


def _gathered(module: torch.nn.Module, optimizer: MegatronOptimizer) -> dict:
    weights = model_weights(module)
    state = optimizer.sharded_state_dict(weights, metadata=METADATA)
    return {"model": weights, "optimizer": state}


if __name__ == "__main__":
    main()
