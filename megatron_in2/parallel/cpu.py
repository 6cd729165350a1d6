"""Lets unmodified Megatron-Core, which names CUDA literally, run on a machine without a GPU.

Megatron-Core writes ``device="cuda"``, ``Tensor.cuda()``, ``torch.cuda.current_device()`` and
type checks against ``torch.cuda.FloatTensor``. Inside :func:`cuda_named_as_cpu` each of these
means the CPU. Nothing here runs where a GPU is present.
"""

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from megatron_in2.parallel.replaced import replaced


def is_cuda(device: Any) -> bool:
    """Say whether an argument of a torch call names a CUDA device."""
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


class _CudaMeansCpu(TorchFunctionMode):
    """Rewrites ``cuda`` devices in torch calls to ``cpu``; costs a few microseconds a call."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return func(*args).replace("torch.", "torch.cuda.", 1)
        if func is torch.Tensor.to:
            args = tuple("cpu" if is_cuda(arg) else arg for arg in args)
        if is_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": "cpu"}
        return func(*args, **kwargs)


class _FinishedStream:
    """Replaces a CUDA stream and its event: CPU work is already done, in order."""

    def wait_stream(self, stream: "_FinishedStream") -> None:
        """Nothing to wait for."""

    def record_event(self) -> "_FinishedStream":
        return self

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait(self, stream: "_FinishedStream") -> None:
        """Nothing to wait for."""


def _all_offloaded(optimizer: torch.optim.Optimizer, offload_fraction: float) -> tuple[Any, ...]:
    """Offload every parameter, as upstream does with tensors whose ``is_cuda`` is true.

    Returns:
        Groups of float32 copies; an empty list of groups that are not offloaded; and the maps from
        parameter to copy, from copy to parameter, and from parameter to float32 copy.
    """
    groups = []
    copies: dict[torch.Tensor, torch.Tensor] = {}
    for group in optimizer.param_groups:
        own = {parameter: parameter.detach().clone().float() for parameter in group["params"]}
        copies |= own
        if own:
            groups.append({**group, "params": list(own.values())})
    return groups, [], copies, {copy: parameter for parameter, copy in copies.items()}, {**copies}


def _skipped_when_alone(collective: Callable[..., Any]) -> Callable[..., Any]:
    """Skip a collective in a group of one rank, where buffer and shard are the same memory.

    NCCL does nothing in this case. Gloo copies the buffer on threads of its own. Their OpenMP
    pools put the main thread's pool to sleep between operations from then on, and every later
    operation takes a third longer.
    """

    def skipped_when_alone(
        output: torch.Tensor, tensor: torch.Tensor, *, group: Any, **options: Any
    ) -> Any:
        if group.size() == 1:
            return None
        return collective(output, tensor, group=group, **options)

    return skipped_when_alone


@contextlib.contextmanager
def cuda_named_as_cpu() -> Iterator[None]:
    """Make every CUDA name that Megatron-Core uses mean the CPU, until the block ends."""
    import megatron.core.tensor_parallel.random as megatron_random
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.optimizer.cpu_offloading import HybridDeviceOptimizer

    def set_rng_state(state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
        torch.set_rng_state(state)

    def get_rng_state(
        device: Any = "cuda", clone: bool = False, graph_safe: bool = False
    ) -> torch.Tensor:
        return torch.get_rng_state()

    substitutes: dict[Any, dict[str, Any]] = {
        torch.cuda: {
            "current_stream": _FinishedStream,
            "stream": contextlib.nullcontext,
            "current_device": lambda: torch.device("cpu"),
            "synchronize": lambda device=None: None,
            "get_rng_state": get_rng_state,
            "set_rng_state": set_rng_state,
            "manual_seed": torch.manual_seed,
            "FloatTensor": torch.FloatTensor,
            "IntTensor": torch.IntTensor,
            "ByteTensor": torch.ByteTensor,
        },
        megatron_random: {
            "_get_cuda_rng_state": get_rng_state,
            "_set_cuda_rng_state": set_rng_state,
        },
        param_and_grad_buffer: {
            name: _skipped_when_alone(getattr(param_and_grad_buffer, name))
            for name in ("dist_all_gather_func", "dist_reduce_scatter_func")
        },
        HybridDeviceOptimizer: {"_get_sub_optimizer_param_groups": _all_offloaded},
    }
    # Both devices share one random state here, about which Megatron-Core warns.
    logging.getLogger(megatron_random.__name__).setLevel(logging.ERROR)
    # The mode below forwards reads of .grad, so torch's warning would name this file.
    warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
    with replaced(substitutes), _CudaMeansCpu():
        yield
