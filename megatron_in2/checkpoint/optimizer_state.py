"""The distributed optimizer's state as parts of whole tensors: each rank has its own part only.

Megatron-Core 0.16.1 offers other forms. ``fully_reshardable`` gathers the state of a whole group
on the host of one rank, or of every rank. ``dp_reshardable`` gathers nothing, but other sizes of
TP, PP and CP cannot load it. ``fully_sharded_model_space`` needs flattened ranges, which 0.16.1
no longer has. Here a rank's range of each parameter is cut into rectangles of that parameter,
under the names and shapes of ``fully_reshardable``. Nothing is gathered or copied, any layout
loads what any other saved, and steps that were saved in the gathered form load as before.
"""

from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from megatron.core.dist_checkpointing.mapping import ShardedTensorFactory
from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer, Range
from megatron.core.optimizer.optimizer import MegatronOptimizer

from megatron_in2.checkpoint.rectangles import rectangles

FORM = "fully_reshardable"  # what the names and shapes are those of
_TENSORS = ("param", "exp_avg", "exp_avg_sq")
# Settings that an offloading optimizer keeps in its groups, some of them classes, which no
# checkpoint should hold: runs with and without offloading load each other's.
_OFFLOADING = (
    "offload_fraction",
    "cpu_optimizer_cls",
    "gpu_optimizer_cls",
    "param_update_in_fp32",
    "pin_cpu_grads",
    "pin_cpu_params",
    "overlap_cpu_optimizer_d2h_h2d",
    "fused",
)


def sharded_optimizer_state(
    optimizer: MegatronOptimizer, weights: dict[str, Any]
) -> dict[str, Any]:
    """Return the optimizer's groups, and this rank's part of the state as sharded tensors.

    Args:
        optimizer: its state is allocated.
        weights: the model's sharded state dict, whose parameters are those of the optimizer.
    """
    distributed = distributed_optimizer(optimizer)
    state: dict[str, Any] = distributed.state_dict()
    for group in state["optimizer"]["param_groups"]:
        for name in _OFFLOADING:
            group.pop(name, None)
    return {
        **state,
        "param_state": own_parts(distributed, weights),
        "param_state_sharding_type": FORM,
    }


def prepare_to_load(optimizer: MegatronOptimizer, groups: list[dict[str, Any]]) -> None:
    """Allocate the state, at the step that was saved; loading then fills its tensors in place.

    The settings of the groups stay those of this run. So Adam of torch, of Transformer Engine and
    an offloading one, whose groups have different settings, load each other's steps.

    Args:
        optimizer: a new one.
        groups: as saved.
    """
    distributed = distributed_optimizer(optimizer)
    _allocate_moments(distributed.optimizer)
    (step,) = {int(group["step"]) for group in groups}
    own = distributed.optimizer.state_dict()["param_groups"]
    settings = [{name: group[name] for name in group if name != "params"} for group in own]
    distributed.load_state_dict(
        {"optimizer": {"param_groups": [{**group, "step": step} for group in settings]}}
    )
    for state in distributed.optimizer.state.values():
        if "step" in state:  # Megatron-Core sets one tensor, which AdamW would advance every time
            state["step"] = state["step"].clone()


def finish_loading(optimizer: MegatronOptimizer) -> None:
    """Hand what was loaded on to the optimizers inside an offloading one."""
    inner = distributed_optimizer(optimizer).optimizer
    if isinstance(inner, HybridDeviceOptimizer):
        inner._sync_hdo_state_to_sub_optimizers()


def distributed_optimizer(optimizer: MegatronOptimizer) -> DistributedOptimizer:
    """Return the one distributed optimizer that a dense model has."""
    (only,) = getattr(optimizer, "chained_optimizers", [optimizer])
    assert isinstance(only, DistributedOptimizer)
    return only


def own_parts(
    optimizer: DistributedOptimizer, weights: dict[str, Any]
) -> dict[str, dict[str, ShardedTensor]]:
    """Return this rank's parts, by the parameter's name in the model and by their own.

    Args:
        optimizer: its state is allocated.
        weights: the model's sharded state dict.
    """
    names = {value.data: name for name, value in weights.items()}
    parts: dict[str, dict[str, ShardedTensor]] = {}
    for buckets in optimizer.gbuf_ranges:
        (ranges,) = buckets.values()  # of one dtype
        for bucket in ranges:
            for parameter, places in bucket["param_map"].items():
                own = places["param"]
                tensors = optimizer._get_main_param_and_optimizer_states(parameter)
                name = names[parameter]
                parts[name] = {
                    f"{kind}.{index}": part
                    for kind in _TENSORS
                    for index, part in enumerate(
                        _parts(kind, tensors[kind], weights[name], own.start, own.end)
                    )
                }
    return parts


def elements_of_owners(optimizer: DistributedOptimizer) -> list[dict[torch.nn.Parameter, int]]:
    """Return for each data-parallel rank how many elements of each parameter it owns.

    A bucket of parameters is cut into equal ranges, as Megatron-Core does for the own rank alone.
    """
    owned: list[dict[torch.nn.Parameter, int]] = [
        {} for _ in range(optimizer.data_parallel_group.size())
    ]
    for buffer in optimizer.buffers:
        for bucket in buffer.buckets:
            size = bucket.grad_data.numel() // len(owned)
            for rank, elements in enumerate(owned):
                start = bucket.offset + rank * size
                places = optimizer._build_model_gbuf_param_range_map(
                    buffer.param_index_map, Range(start, start + size), bucket.offset
                )
                elements |= {name: place["param"].size for name, place in places.items()}
    return owned


def _parts(
    kind: str,
    tensor: torch.Tensor,
    weight: ShardedTensor | ShardedTensorFactory,
    start: int,
    stop: int,
) -> Iterator[ShardedTensor]:
    """Yield one kind of state of a parameter as rectangles of the whole tensor.

    Args:
        kind: of the state.
        tensor: [stop - start], this rank's part of it.
        weight: the parameter's place in the whole tensor; a factory where it has several, as the
            two halves of SwiGLU's input have.
        start: the part's first element in this rank's flattened parameter.
        stop: one behind its last.
    """
    blocks = weight.build() if isinstance(weight, ShardedTensorFactory) else [weight]
    for block in blocks:
        begin = block.data.storage_offset() - weight.data.storage_offset()
        low = min(max(start - begin, 0), block.data.numel())
        high = min(max(stop - begin, 0), block.data.numel())
        stacked = block.prepend_axis_num  # axes of layers, which the parameter itself lacks
        for place in rectangles(block.local_shape, low, high):
            sizes = (*(1 for _ in range(stacked)), *place.sizes)
            offsets = (*(0 for _ in range(stacked)), *place.offsets)
            data = tensor[begin + place.start - start : begin + place.stop - start]
            yield ShardedTensor(
                key=f"optimizer.state.{kind}.{block.key}",
                data=data.view(sizes),
                dtype=tensor.dtype,
                local_shape=sizes,
                global_shape=block.global_shape,
                global_offset=tuple(map(sum, zip(block.global_offset, offsets, strict=True))),
                axis_fragmentations=None,  # no regular grid
                # Data-parallel ranks own different parts; tensor-parallel ones may own the same.
                replica_id=(*block.replica_id[:2], 0),
                allow_shape_mismatch=block.allow_shape_mismatch,
            )


def _allocate_moments(inner: torch.optim.Optimizer) -> None:
    """Give the optimizer the state that loading fills; Megatron-Core's own leaves out ``step``.

    An offloading optimizer allocates by a step over random gradients: weights must load later.
    """
    if isinstance(inner, HybridDeviceOptimizer):
        inner.dummy_step()
    elif isinstance(inner, torch.optim.AdamW):
        for group in inner.param_groups:
            for parameter in group["params"]:
                inner.state[parameter] = {
                    "step": torch.tensor(0.0),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
