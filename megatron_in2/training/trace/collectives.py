"""Answers collectives without communicating, and says what they would move."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import ProcessGroup, Work

_NAMES = {
    "allreduce_": "all_reduce",
    "allreduce_coalesced_": "all_reduce",
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "allgather_into_tensor_coalesced_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "reduce_scatter_tensor_coalesced_": "reduce_scatter",
    "broadcast_": "broadcast",
    "send": "send",
    "recv_": "receive",
    "barrier": "barrier",
}
# Megatron-Core's descriptions of its groups, by the parallelism that they serve.
_GROUPS = {
    "TENSOR_MODEL_PARALLEL_GROUP": "tensor",
    "CONTEXT_PARALLEL_GROUP": "context",
    "PIPELINE_MODEL_PARALLEL_GROUP": "pipeline",
    "DATA_PARALLEL_GROUP_WITH_CP": "data",
    "INTRA_PARTIAL_DATA_PARALLEL_GROUP_WITH_CP": "data",
    "DATA_PARALLEL_GROUP": "data",
    "EMBEDDING_GROUP": "embedding",
}


def is_collective(func: Any) -> bool:
    """Say whether an operation communicates."""
    return bool(func.namespace == "c10d")


class CollectiveCall:
    """One call of a collective of ``torch.distributed``.

    Args:
        func: the operation, of the namespace c10d.
        args: its arguments.
    """

    def __init__(self, func: Any, args: tuple[Any, ...]) -> None:
        self._args = args
        self._returns_tensors = len(func._schema.returns) > 1
        kinds = [str(argument.type) for argument in func._schema.arguments]
        (place,) = (i for i, kind in enumerate(kinds) if kind.endswith("c10d.ProcessGroup"))
        group = ProcessGroup.unbox(args[place])
        self.name = _NAMES[func.overloadpacket.__name__]
        self.group = _GROUPS.get(group.group_desc, "world")
        self.ranks = tuple(dist.get_process_group_ranks(group))
        tensors = [sum(map(_nbytes, _flat(each))) for each in args[:place]]
        self.size = max(tensors, default=0)
        self.work: Work | None = None

    def result(self, on_wait: Callable[[], None]) -> Any:
        """Return what the operation returns.

        Args:
            on_wait: called when the program waits for it.
        """
        self.work = _Done(on_wait)
        boxed = self.work.boxed()
        return (self._args[0], boxed) if self._returns_tensors else boxed


class _Done(Work):
    """A collective that is done at once, and tells when it is waited for."""

    def __init__(self, on_wait: Callable[[], None]) -> None:
        super().__init__()
        self._on_wait = on_wait

    def wait(self, timeout: Any = None) -> bool:
        self._on_wait()
        return True


def _flat(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [tensor for each in value for tensor in _flat(each)]


def _nbytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
