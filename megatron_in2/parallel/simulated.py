"""One rank of a world that does not exist: the real code, without GPU, peers, or values.

Inside :func:`open_simulated_world` every CUDA name that torch and Megatron-Core use means the meta
device, whose tensors have shapes and no memory. Integer and boolean tensors stay real, on the CPU:
which positions are trained on, and where samples end, decides shapes. The process groups are
torch's fake ones; a collective runs only under a ``TorchDispatchMode`` that answers it (see
``training/trace``).
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.autograd.graph import _engine_run_backward
from torch.overrides import TorchFunctionMode

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.cpu import is_cuda
from megatron_in2.parallel.rank import Rank
from megatron_in2.parallel.replaced import replaced
from megatron_in2.parallel.world import World, model_parallel_state

CUDA = torch.device("cuda", 0)
META = torch.device("meta")
CAPABILITY = (9, 0)  # compute capability of the simulated GPU: Hopper
StandIns = Mapping[Callable[..., Any], Callable[..., Any]]


@dataclass
class Placement:
    """Where tensors are allocated right now, and where existing ones are: GPU or host.

    Args:
        is_host: what is allocated now is the host's.
        holds: whether a tensor on the meta device is the host's.
    """

    is_host: bool = False
    holds: Callable[[torch.Tensor], bool] = lambda tensor: False

    @contextlib.contextmanager
    def on_host(self) -> Iterator[None]:
        """What is allocated inside is host memory."""
        before, self.is_host = self.is_host, True
        try:
            yield
        finally:
            self.is_host = before


class _CudaMeansMeta(TorchFunctionMode):
    """Rewrites ``cuda`` in torch calls to ``meta``, and lets meta tensors say that they are CUDA's.

    Args:
        stand_ins: functions that are called instead of torch's.
        placement: is told when a tensor moves to the host.
    """

    def __init__(self, stand_ins: StandIns, placement: Placement) -> None:
        super().__init__()
        self._placement = placement
        self._known: dict[Any, Callable[..., Any]] = {
            torch.Tensor.is_cuda.__get__: self._is_cuda,  # type: ignore[attr-defined]
            torch.Tensor.device.__get__: self._device,  # type: ignore[attr-defined]
            torch.empty: self._empty,
            torch.Tensor.type: _type,
            torch.Tensor.cuda: _to_gpu,
            torch.Tensor.cpu: self._to_host,
            torch.Tensor.pin_memory: lambda tensor: tensor,
            torch.Tensor.to: self._to,
            torch.Tensor.item: lambda tensor: tensor.item() if tensor.device != META else 1.0,
            torch.Tensor.__float__: lambda tensor: float(tensor) if tensor.device != META else 1.0,
            torch.Tensor.__bool__: lambda tensor: bool(tensor) if tensor.device != META else True,
            torch.tensor: _tensor,
            torch.autograd.backward: self._run_backward,
            **stand_ins,
        }

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        known = self._known.get(func)
        if known is not None:
            return known(*args, **kwargs)
        if is_cuda(kwargs.get("device")):
            device = "cpu" if _is_index(kwargs.get("dtype")) else META
            kwargs = {**kwargs, "device": device}
        return func(*args, **kwargs)

    def _run_backward(
        self,
        tensors: torch.Tensor | Sequence[torch.Tensor],
        grad_tensors: torch.Tensor | Sequence[torch.Tensor | None] | None = None,
        **unused: Any,
    ) -> None:
        """Run the backward pass inside this mode, which torch's own function leaves."""
        outputs = (tensors,) if isinstance(tensors, torch.Tensor) else tuple(tensors)
        if isinstance(grad_tensors, torch.Tensor) or grad_tensors is None:
            grad_tensors = (grad_tensors,) * len(outputs)
        gradients = tuple(
            torch.ones_like(output) if gradient is None else gradient
            for output, gradient in zip(outputs, grad_tensors, strict=True)
        )
        with self:
            _engine_run_backward(
                outputs, gradients, False, False, (), allow_unreachable=True, accumulate_grad=True
            )

    def _is_cuda(self, tensor: torch.Tensor) -> bool:
        return not self._placement.holds(tensor)

    def _device(self, tensor: torch.Tensor) -> torch.device:
        if tensor.device != META:
            return tensor.device
        return torch.device("cpu") if self._placement.holds(tensor) else CUDA

    def _empty(self, *size: Any, device: Any = None, **options: Any) -> torch.Tensor:
        """Give the host no memory either: an offloaded optimizer's buffers are large."""
        dtype = options.get("dtype") or torch.get_default_dtype()
        if is_cuda(device):
            device = "cpu" if _is_index(options.get("dtype")) else META
        elif str(device) == "cpu" and dtype.is_floating_point:
            options.pop("pin_memory", None)
            with self._placement.on_host():
                return torch.empty(*size, device=META, **options)
        return torch.empty(*size, device=device, **options)

    def _to_host(self, tensor: torch.Tensor, *unused: Any, **options: Any) -> torch.Tensor:
        if tensor.device != META:
            return tensor
        with self._placement.on_host():
            return torch.empty_like(tensor)

    def _to(self, tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device", args[0] if args else None)
        if is_cuda(device):
            tensor = _to_gpu(tensor)
        elif str(device) == "cpu":
            tensor = self._to_host(tensor)
        elif not isinstance(device, torch.Tensor):
            return tensor.to(*args, **kwargs)
        dtype = kwargs.get("dtype", args[1] if len(args) > 1 else None)
        if isinstance(device, torch.Tensor):
            dtype = device.dtype
        return tensor.to(dtype) if isinstance(dtype, torch.dtype) else tensor


def _is_index(dtype: torch.dtype | None) -> bool:
    return dtype is not None and not dtype.is_floating_point


def _type(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    if args or kwargs:
        return tensor.type(*args, **kwargs)
    return tensor.type().replace("torch.", "torch.cuda.", 1).replace("meta.", "")


def _to_gpu(tensor: torch.Tensor, *unused: Any, **options: Any) -> torch.Tensor:
    """Move what holds numbers; indices stay real."""
    if tensor.device == META or _is_index(tensor.dtype):
        return tensor
    return torch.empty_like(tensor, device=META)


def _tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    made = torch.tensor(_known_values(data), **options)
    return _to_gpu(made) if is_cuda(device) else made


def _known_values(data: Any) -> Any:
    """Put a number where a value is not known."""
    if isinstance(data, list | tuple):
        return [_known_values(each) for each in data]
    if isinstance(data, torch.Tensor) and data.device == META:
        return 1.0
    return data


class _IdleStream:
    """Replaces a CUDA stream or event on meta tensors: every method returns the stream itself."""

    def __init__(self, *unused: Any, **options: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *unused, **options: self


def _one_by_one(operations: list[dist.P2POp]) -> list[dist.Work]:
    """Stand in for ``batch_isend_irecv``, which asks the group for a backend of the meta device."""
    return [each.op(each.tensor, each.peer, each.group, each.tag) for each in operations]


def _new_fake_group(*args: Any, backend: Any = None, **options: Any) -> Any:
    """Stand in for ``new_group``: whatever backend is asked for, nothing is connected."""
    return _new_group(*args, **options)


def _all_say_the_same(objects: list[Any], own: Any, group: Any = None) -> None:
    """Stand in for ``all_gather_object``."""
    objects[:] = [own] * len(objects)


def _apply_keeping_attributes(
    module: torch.nn.Module, function: Callable[..., Any], recurse: bool = True
) -> torch.nn.Module:
    """Stand in for ``Module._apply``, which moves weights to another device.

    From the CPU to CUDA, torch keeps the parameter objects. To the meta device it makes new ones,
    without Megatron-Core's attributes.
    """
    attributes = {name: vars(each) for name, each in module._parameters.items() if each is not None}
    _apply(module, function, recurse)  # type: ignore[no-untyped-call]
    for name, values in attributes.items():
        vars(module._parameters[name]).update(values)
    return module


_new_group = dist.new_group
_apply = torch.nn.Module._apply


@contextlib.contextmanager
def open_simulated_world(
    parallel: ParallelConfig,
    rank: Rank,
    stand_ins: StandIns,
    placement: Placement,
) -> Iterator[World]:
    """Become a rank of a world of any size, on meta tensors.

    Args:
        parallel: the layout.
        rank: which rank of the world.
        stand_ins: functions to call instead of torch's, such as a GPU's kernel for one that torch
            takes apart on other devices.
        placement: says, while code runs, whether it allocates in the host's memory.

    Yields:
        The rank's place. Its device calls itself CUDA.
    """
    parallel.validate(rank.world_size)
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    with contextlib.ExitStack() as stack:
        stack.enter_context(replaced(_names()))
        stack.enter_context(_CudaMeansMeta(stand_ins, placement))
        dist.init_process_group(
            "fake", rank=rank.index, world_size=rank.world_size, store=FakeStore()
        )
        stack.callback(dist.destroy_process_group)
        yield stack.enter_context(model_parallel_state(parallel, rank, seed=0, device=CUDA))


def _names() -> dict[Any, dict[str, Any]]:
    import megatron.core.tensor_parallel.random as megatron_random

    def keep_rng_state(state: torch.Tensor, device: Any = -1, graph_safe: bool = False) -> None:
        pass

    def get_rng_state(
        device: Any = "cuda", clone: bool = False, graph_safe: bool = False
    ) -> torch.Tensor:
        return torch.get_rng_state()

    return {
        torch.cuda: {
            "is_available": lambda: True,
            "get_device_capability": lambda device=None: CAPABILITY,
            "current_device": lambda: CUDA,
            "current_stream": _IdleStream,
            "default_stream": _IdleStream,
            "Stream": _IdleStream,
            "Event": _IdleStream,
            "stream": contextlib.nullcontext,
            "synchronize": lambda device=None: None,
            "get_rng_state": get_rng_state,
            "set_rng_state": keep_rng_state,
            "manual_seed": lambda seed: None,
            "FloatTensor": _gpu_tensor,
            "IntTensor": torch.IntTensor,
            "ByteTensor": torch.ByteTensor,
        },
        megatron_random: {
            "_get_cuda_rng_state": get_rng_state,
            "_set_cuda_rng_state": keep_rng_state,
        },
        torch.nn.Module: {"_apply": _apply_keeping_attributes},
        dist: {
            "batch_isend_irecv": _one_by_one,
            "new_group": _new_fake_group,
            "all_gather_object": _all_say_the_same,
        },
    }


def _gpu_tensor(data: Any) -> torch.Tensor:
    return torch.empty(len(data), device=META)
