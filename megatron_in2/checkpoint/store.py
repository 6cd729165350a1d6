"""Saves and loads sharded state through Megatron-Core's ``dist_checkpointing``.

Any layout loads what any other saved: tensors are stored whole, under names and shapes that do
not depend on TP, PP, CP or DP.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.folder import (
    CheckpointState,
    describe_checkpoint,
    mark_complete,
    remove_older,
    step_folder,
)
from megatron_in2.model.mistral import MistralModel

# The only sharding of optimizer state that any layout can load.
_METADATA = {"distrib_optim_sharding_type": "fully_reshardable"}


def save_checkpoint(
    folder: Path,
    model: MistralModel,
    optimizer: MegatronOptimizer,
    config: dict[str, Any],
    state: CheckpointState,
    tokenizer: Path,
    keep_last: int,
) -> Path:
    """Save one step, collectively; every rank calls it. It counts once its marker is written."""
    step = step_folder(folder, state.step)
    is_main = dist.get_rank() == 0
    if is_main:
        shutil.rmtree(step, ignore_errors=True)  # what an interrupted save left
        step.mkdir(parents=True)
    dist.barrier()
    dist_checkpointing.save(_sharded_state(model, optimizer, is_loading=False), str(step))
    dist.barrier()
    if is_main:
        describe_checkpoint(step, config, state, tokenizer)
        mark_complete(step, state.step)
        remove_older(folder, keep_last)
    dist.barrier()
    return step


def load_checkpoint(step: Path, model: MistralModel, optimizer: MegatronOptimizer) -> None:
    """Load weights and optimizer state, collectively, into any layout."""
    _allocate_moments(optimizer)
    loaded = dist_checkpointing.load(_sharded_state(model, optimizer, is_loading=True), str(step))
    model.load_state_dict(loaded["model"])
    optimizer.load_state_dict(loaded["optimizer"])
    _separate_step_counts(optimizer)


def load_weights(step: Path, model: MistralModel) -> None:
    """Load weights alone, collectively, into any layout."""
    loaded = dist_checkpointing.load({"model": model.sharded_state_dict()}, str(step))
    model.load_state_dict(loaded["model"])


def _sharded_state(
    model: MistralModel, optimizer: MegatronOptimizer, is_loading: bool
) -> dict[str, Any]:
    weights = model.sharded_state_dict()
    return {
        "model": weights,
        "optimizer": optimizer.sharded_state_dict(
            weights, is_loading=is_loading, metadata=_METADATA
        ),
    }


def _inner_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    chained = getattr(optimizer, "chained_optimizers", [optimizer])
    assert all(isinstance(each, DistributedOptimizer) for each in chained)
    return [each.optimizer for each in chained]


def _allocate_moments(optimizer: MegatronOptimizer) -> None:
    """Give torch's AdamW the state that loading fills in place.

    Megatron-Core's own initialisation writes no ``step``, which its loading then asks for.
    """
    for inner in _inner_optimizers(optimizer):
        for group in inner.param_groups:
            for parameter in group["params"]:
                if isinstance(inner, torch.optim.AdamW) and not inner.state[parameter]:
                    inner.state[parameter] = {
                        "step": torch.tensor(0.0),
                        "exp_avg": torch.zeros_like(parameter),
                        "exp_avg_sq": torch.zeros_like(parameter),
                    }


def _separate_step_counts(optimizer: MegatronOptimizer) -> None:
    """Give every parameter its own ``step``.

    Megatron-Core loads one tensor shared by all, which AdamW would advance once a parameter.
    """
    for inner in _inner_optimizers(optimizer):
        for parameter_state in inner.state.values():
            if "step" in parameter_state:
                parameter_state["step"] = parameter_state["step"].clone()
