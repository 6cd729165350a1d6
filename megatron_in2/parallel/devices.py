"""This rank's GPU, and whether the node's GPUs are those that the scheduler has granted.

Slurm says how many GPUs of a node the job has (``SLURM_GPUS_ON_NODE``), also where the driver does
not answer. Without a scheduler a machine without usable GPUs trains on its CPU.
"""

import os
from collections.abc import Mapping

from megatron_in2.errors import InputError, UnfitNodeError
from megatron_in2.parallel.rank import Rank

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # the new name, the old one


def require_granted_gpus(environment: Mapping[str, str] = os.environ) -> None:
    """Check that torch can use every GPU that the scheduler has granted this task.

    Raises:
        UnfitNodeError: it cannot; the message has the reason.
    """
    granted = _granted(environment)
    if not granted:
        return
    import torch  # not before: the plan of a run without GPUs needs none

    if torch.version.cuda is None:
        raise UnfitNodeError(
            f"the job has {granted} GPUs here and torch {torch.__version__} is built without "
            "CUDA: install a build with CUDA on this node"
        )
    if not torch.cuda.is_available():
        raise UnfitNodeError(f"the job has {granted} GPUs here and CUDA fails: {_cuda_error()}")
    if torch.cuda.device_count() < granted:
        raise UnfitNodeError(
            f"{torch.cuda.device_count()} of the {granted} GPUs that the job has here answer"
        )


def own_gpu(rank: Rank, environment: Mapping[str, str] = os.environ) -> int:
    """Return the index of this rank's GPU among those that its process sees.

    Raises:
        InputError: there are fewer GPUs than ranks on this node.
    """
    import torch

    visible = torch.cuda.device_count()
    if rank.local_index < visible:
        return rank.local_index
    if _granted(environment) < _on_node(environment):  # the scheduler gives each task its own
        return rank.local_index % visible
    raise InputError(
        f"rank {rank.index} is number {rank.local_index + 1} on its node, which has {visible} "
        f"GPU{'s' * (visible != 1)}: start at most one rank a GPU"
    )


def let_segments_grow(environment: Mapping[str, str] = os.environ) -> None:
    """Let torch's GPU allocator grow its segments, unless the user has settings of their own.

    Rows of unlike samples allocate blocks of unlike sizes; segments that grow leave no gaps
    between them.
    """
    import torch

    if not any(name in environment for name in ALLOCATOR_SETTINGS):
        torch.cuda.memory._set_allocator_settings("expandable_segments:True")


def _on_node(environment: Mapping[str, str]) -> int:
    """Return the GPUs of this node that the job has, as Slurm says; 0 without Slurm."""
    value = environment.get("SLURM_GPUS_ON_NODE", "")
    return int(value) if value.isdecimal() else 0


def _granted(environment: Mapping[str, str]) -> int:
    """Return the GPUs that this task must see: all of the node's, or those it is bound to."""
    on_node = _on_node(environment)
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return on_node
    return min(on_node, len([each for each in listed.split(",") if each]))


def _cuda_error() -> str:
    import torch

    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:
        return str(error).splitlines()[0]
    return "no GPU is found"
