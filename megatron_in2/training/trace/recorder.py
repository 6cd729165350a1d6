"""Follows a program's memory, operations and collectives while it runs on meta tensors.

Every storage is followed from the operation that makes it to its end, which torch announces.
Operations of the backward pass are attributed to the module whose forward pass made their autograd
node, by the node's sequence number.
"""

import contextlib
import re
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_in2.parallel.simulated import META, Placement
from megatron_in2.training.trace.collectives import CollectiveCall, is_collective
from megatron_in2.training.trace.events import (
    Allocation,
    Collective,
    Event,
    Kind,
    Operation,
    Phase,
    Wait,
)
from megatron_in2.training.trace.kernels import flops_of, workspace_bytes

_NOT_IN_BACKWARD = -1


class Recorder(TorchDispatchMode):
    """Records what happens inside the block that it is entered for.

    Args:
        placement: says whether the program allocates on the GPU or in the host's memory.
    """

    def __init__(self, placement: Placement) -> None:
        super().__init__()
        self.allocations: list[Allocation] = []
        self.events: list[Event] = []
        self.ends_of_forward: list[int] = []
        """Moments at which a forward pass, or a part of one that was repeated, was over."""
        self.phase: Phase = "build"
        self._placement = placement
        self._clock = 0
        self._held: dict[int, tuple[Allocation, Any]] = {}  # by the storage's address
        self._was_recomputing = False
        self._works: list[Any] = []
        self._names: dict[int, str] = {}  # of modules, by their identity
        self._modules: list[str] = [""]
        self._sequence_numbers: list[int] = [-1]  # from which on a module made autograd nodes
        self._owners: list[str] = [""]

    # --- what the program is doing -------------------------------------------------------------

    @contextlib.contextmanager
    def following(self, model: torch.nn.Module) -> Iterator[None]:
        """Know, inside, which of the model's modules is running."""
        self._names = {
            id(module): re.sub(r"\.\d+(?=\.|$)", ".N", name)
            for name, module in model.named_modules()
        }
        hooks = (
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        )
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def end_forward(self) -> None:
        """One micro-batch's forward pass, loss included, is over."""
        self.ends_of_forward.append(self._tick())

    def mark(self, tensors: Iterator[torch.Tensor], kind: Kind) -> None:
        """Say what existing tensors are for."""
        for tensor in tensors:
            known = self._held.get(tensor.untyped_storage()._cdata)
            if known is not None and known[0].kind is None:
                known[0].kind = kind

    def restart(self) -> None:
        """Forget what has happened; what is held stays known."""
        self.events.clear()
        self.ends_of_forward.clear()
        self.allocations = [allocation for allocation, _ in self._held.values()]

    def stop(self) -> None:
        """Follow no longer what is still held."""
        self._held.clear()
        self._works.clear()

    def _enter_module(self, module: torch.nn.Module, inputs: Any) -> None:
        self._set_owner(self._names.get(id(module), self._modules[-1]))
        self._modules.append(self._owners[-1])

    def _leave_module(self, module: torch.nn.Module, inputs: Any, output: Any) -> None:
        self._modules.pop()
        self._set_owner(self._modules[-1])

    def _set_owner(self, name: str) -> None:
        self._sequence_numbers.append(torch._C._autograd._get_sequence_nr())
        self._owners.append(name)

    def _where(self) -> tuple[Phase, str, bool]:
        """Return phase, module, and whether a forward pass is being repeated."""
        if torch._C._current_graph_task_id() == _NOT_IN_BACKWARD:
            return self.phase, self._modules[-1], False
        if torch.is_grad_enabled():  # only a repeated forward pass records a graph there
            return "backward", self._modules[-1], True
        node = torch._C._current_autograd_node()
        if node is None:
            return "backward", "", False
        place = bisect_right(self._sequence_numbers, node._sequence_nr())
        return "backward", self._owners[place - 1], False

    # --- operations ----------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # In the backward pass the mode that calls meta tensors CUDA's is on: not for this.
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        phase, module, is_recomputed = self._where()
        if self._was_recomputing and not is_recomputed:
            self.ends_of_forward.append(self._tick())
        self._was_recomputing = is_recomputed
        if is_collective(func):
            return self._collective(CollectiveCall(func, args), phase, module)
        output = func(*_without_real_indices(func, args), **kwargs)
        outputs = [each for each in _tensors(output) if self._counts(each)]
        made = [each for each in outputs if each.untyped_storage()._cdata not in self._held]
        keeps_graph = is_recomputed or phase == "forward"
        for tensor in made:
            self._allocate(tensor, phase, module, func, keeps_graph)
        if made or func._schema.is_mutable:
            self._work(func, args, kwargs, output, phase, module, is_recomputed)
        return output

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Say whether a GPU would hold a tensor: all but real numbers on the CPU."""
        return tensor.device == META or not tensor.dtype.is_floating_point

    def _work(
        self,
        func: Any,
        args: Any,
        kwargs: Any,
        output: Any,
        phase: Phase,
        module: str,
        is_recomputed: bool,
    ) -> None:
        workspace = workspace_bytes(func, args)
        if workspace:
            name = f"{func.overloadpacket.__name__} (workspace)"
            self.allocations.append(
                Allocation(workspace, self._tick(), phase, module, name, "temporaries", False)
            )
            self.allocations[-1].released = self._tick()
        tensors = [each for each in _tensors((args, kwargs, output)) if self._counts(each)]
        moved = sum(
            min(each.numel() * each.element_size(), each.untyped_storage().nbytes())
            for each in {id(each): each for each in tensors}.values()
        )
        flops = flops_of(func, args, kwargs, output)
        name = func.overloadpacket.__name__
        self.events.append(Operation(name, module, phase, flops, moved, is_recomputed))

    def _collective(self, call: CollectiveCall, phase: Phase, module: str) -> Any:
        """Record a collective instead of running it."""
        place = len(self.events)
        self.events.append(Collective(call.name, call.group, call.ranks, call.size, phase, module))
        result = call.result(lambda: self.events.append(Wait(place)))
        # torch keeps the C++ half alone, which would wait for ever without this one.
        self._works.append(call.work)
        return result

    # --- memory --------------------------------------------------------------------------------

    def _allocate(
        self, tensor: torch.Tensor, phase: Phase, module: str, func: Any, keeps_graph: bool
    ) -> None:
        storage = tensor.untyped_storage()
        allocation = Allocation(
            size=storage.nbytes(),
            made=self._tick(),
            phase=phase,
            module=module,
            operation=func.overloadpacket.__name__,
            kind="host" if self._placement.is_host else None,
            keeps_graph=keeps_graph,
        )
        address = storage._cdata

        def release(_: Any) -> None:
            allocation.released = self._tick()
            self._held.pop(address, None)

        self.allocations.append(allocation)
        self._held[address] = (allocation, weakref.ref(storage, release))

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _without_real_indices(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Put real indices on the meta device too, where an operation looks at their shapes alone.

    Masks as indices stay: how many of their elements are set decides the result's shape.
    """
    tensors = list(_tensors(args))
    devices = {each.device for each in tensors if each.dim()}
    if len(devices) < 2 or any(each.dtype == torch.bool for each in tensors):
        return args
    return tuple(
        torch.empty_like(each, device=META) if isinstance(each, torch.Tensor) else each
        for each in args
    )


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
