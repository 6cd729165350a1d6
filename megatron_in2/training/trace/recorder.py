"""Records a program's memory, operations and collectives while it runs on meta tensors.

Every storage is followed from the operation that allocates it to its release, which a weak
reference reports. An operation of the backward pass belongs to the module whose forward pass
created its autograd node; the node's sequence number tells which one.
"""

import contextlib
import re
import weakref
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

import torch
from megatron.core.tensor_parallel import CheckpointWithoutOutput
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_in2.parallel.replaced import replaced
from megatron_in2.parallel.simulated import META, Placement
from megatron_in2.training.arithmetic.checkpoint_share import CheckpointShare
from megatron_in2.training.trace.collectives import CollectiveCall, is_collective
from megatron_in2.training.trace.events import (
    MODEL,
    Allocation,
    Collective,
    Event,
    Kind,
    MicroBatchEnd,
    Operation,
    Phase,
    Trace,
    Wait,
)
from megatron_in2.training.trace.kernels import flops_of, kernel_name, workspace_bytes

_NOT_IN_BACKWARD = -1


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch is untyped here
    """Records what happens inside the ``with`` block.

    Args:
        placement: whether the program allocates in the GPU's memory or in the host's.
    """

    def __init__(self, placement: Placement) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.phase: Phase = "build"
        self._allocations: list[Allocation] = []
        self._events: list[Event] = []
        self._ends_of_forward: list[int] = []
        self._ends_of_micro_batches: list[int] = []
        self._placement = placement
        placement.holds = self._is_of_host
        self._clock = 0
        self._held: dict[int, tuple[Allocation, Any]] = {}  # by the storage's address
        self._was_recomputing = False
        self._is_repeating = False  # a part of the forward pass that is no module
        self._works: list[Any] = []
        self._names: dict[int, str] = {}  # of modules, by their id
        self._modules: list[str] = [""]
        # Autograd nodes from this number on, up to the next one, belong to the owner beside it.
        self._sequence_numbers: list[int] = [-1]
        self._owners: list[str] = [""]

    # --- what the program is doing -------------------------------------------------------------

    @contextlib.contextmanager
    def following(self, model: torch.nn.Module) -> Iterator[None]:
        """Note inside the block which of the model's modules runs."""
        self._names = {
            id(module): re.sub(r"\.\d+(?=\.|$)", ".N", name) or MODEL
            for name, module in model.named_modules()
        }
        resize = torch.UntypedStorage.resize_
        recompute = CheckpointWithoutOutput._recompute

        def noted_resize(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)  # type: ignore[no-untyped-call]
            self._resize(storage, size)
            return result

        def noted_recompute(checkpoint: CheckpointWithoutOutput, gradient: torch.Tensor) -> None:
            self._is_repeating = True
            try:
                recompute(checkpoint, gradient)
            finally:
                self._is_repeating = False

        names: dict[Any, dict[str, Any]] = {
            torch.UntypedStorage: {"resize_": noted_resize},
            CheckpointWithoutOutput: {"_recompute": noted_recompute},
        }
        hooks = (
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        )
        try:
            with replaced(names):
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def end_forward(self) -> None:
        """Note that a micro-batch's forward pass, the loss included, is over."""
        self._ends_of_forward.append(self._tick())
        self._ends_of_micro_batches.append(self._clock)
        self._events.append(MicroBatchEnd())

    def mark(self, tensors: Iterator[torch.Tensor], kind: Kind) -> None:
        """Note what existing tensors are for."""
        for tensor in tensors:
            known = self._held.get(tensor.untyped_storage()._cdata)
            if known is not None and known[0].kind is None:
                known[0].kind = kind

    def restart(self) -> None:
        """Forget what has happened. What is still held, and unmarked, is of kind ``other``."""
        self._events.clear()
        self._ends_of_forward.clear()
        self._ends_of_micro_batches.clear()
        self._allocations = [allocation for allocation, _ in self._held.values()]
        for allocation in self._allocations:
            allocation.kind = allocation.kind or "other"

    def stop(self, checkpoint: CheckpointShare) -> Trace:
        """Stop following what is still held, and return what has been recorded."""
        self._held.clear()
        self._works.clear()
        return Trace(
            self._allocations,
            self._events,
            self._ends_of_forward,
            self._ends_of_micro_batches,
            checkpoint,
        )

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
        """Return phase, module, and whether a part of the forward pass is being recomputed."""
        if torch._C._current_graph_task_id() == _NOT_IN_BACKWARD:
            return self.phase, self._modules[-1], False
        if self._modules[-1] or torch.is_grad_enabled():  # in the backward pass: a repeated forward
            return "backward", self._modules[-1], True
        return "backward", self._owner_of_node(), self._is_repeating

    def _owner_of_node(self) -> str:
        """Return the module whose forward pass created the node that runs backward."""
        node = torch._C._current_autograd_node()
        if node is None:
            return ""
        return self._owners[bisect_right(self._sequence_numbers, node._sequence_nr()) - 1]

    # --- operations ----------------------------------------------------------------------------

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        # During the backward pass, the mode that presents meta tensors as CUDA's is active.
        with torch._C.DisableTorchFunction():
            return self._run(func, args, kwargs or {})

    def _run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        phase, module, is_recomputed = self._where()
        if self._was_recomputing and not is_recomputed:
            self._ends_of_forward.append(self._tick())
        self._was_recomputing = is_recomputed
        if is_collective(func):
            return self._collective(CollectiveCall(func, args), phase, module)
        output = func(*_without_real_indices(func, args), **kwargs)
        outputs = [each for each in _tensors(output) if self._counts(each)]
        made = [each for each in outputs if each.untyped_storage()._cdata not in self._held]
        keeps_graph = is_recomputed or phase == "forward"
        is_host = self._placement.is_host or self._is_host_work(args)
        name = kernel_name(func, args)
        for tensor in made:
            self._allocate(tensor, phase, module, name, keeps_graph, is_host)
        if not is_host and (made or func._schema.is_mutable):
            self._work(name, func, args, kwargs, output, phase, module, is_recomputed)
        return output

    def _counts(self, tensor: torch.Tensor) -> bool:
        """Return whether a GPU would hold a tensor: all except floating-point ones on the CPU."""
        return tensor.device == META or not tensor.dtype.is_floating_point

    def _work(
        self,
        name: str,
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
            operation = f"{name} (workspace)"
            self._allocations.append(
                Allocation(workspace, self._tick(), phase, module, operation, "temporaries", False)
            )
            self._allocations[-1].released = self._tick()
        tensors = [each for each in _tensors((args, kwargs, output)) if self._counts(each)]
        moved = sum(
            min(each.numel() * each.element_size(), each.untyped_storage().nbytes())
            for each in {id(each): each for each in tensors}.values()
        )
        flops = flops_of(func, args, kwargs, output)
        self._events.append(Operation(name, module, phase, flops, moved, is_recomputed))

    def _collective(self, call: CollectiveCall, phase: Phase, module: str) -> Any:
        """Record a collective instead of running it."""
        place = len(self._events)
        self._events.append(Collective(call.name, call.group, call.ranks, call.size, phase, module))
        result = call.result(lambda: self._events.append(Wait(place)))
        # torch keeps only the C++ object, whose wait needs the Python one alive.
        self._works.append(call.work)
        return result

    # --- memory --------------------------------------------------------------------------------

    def _is_of_host(self, tensor: torch.Tensor) -> bool:
        held = self._held.get(tensor.untyped_storage()._cdata)
        return held is not None and held[0].kind == "host"

    def _is_host_work(self, args: tuple[Any, ...]) -> bool:
        """Return whether all known inputs are in the host's memory; then the outputs are too."""
        addresses = (each.untyped_storage()._cdata for each in _tensors(args))
        kinds = [self._held[address][0].kind for address in addresses if address in self._held]
        return bool(kinds) and all(kind == "host" for kind in kinds)

    def _allocate(
        self,
        tensor: torch.Tensor,
        phase: Phase,
        module: str,
        operation: str,
        keeps_graph: bool,
        is_host: bool,
    ) -> None:
        storage = tensor.untyped_storage()
        allocation = Allocation(
            size=storage.nbytes(),
            made=self._tick(),
            phase=phase,
            module=module,
            operation=operation,
            kind="host" if is_host else None,
            keeps_graph=keeps_graph,
        )
        address = storage._cdata

        def release(_: Any) -> None:
            if known := self._held.pop(address, None):
                known[0].released = self._tick()

        self._allocations.append(allocation)
        self._held[address] = (allocation, weakref.ref(storage, release))

    def _resize(self, storage: torch.UntypedStorage, size: int) -> None:
        """Follow a storage that is emptied, or filled again, in place.

        Megatron-Core does this with outputs that it recomputes.
        """
        known = self._held.get(storage._cdata)
        if known is None or known[0].size == size:
            return
        before, reference = known
        before.released = self._tick()
        phase, module, _ = self._where()
        again = Allocation(
            size, self._tick(), phase, module or before.module, before.operation, None, False
        )
        self._allocations.append(again)
        self._held[storage._cdata] = (again, reference)

    def _tick(self) -> int:
        self._clock += 1
        return self._clock


def _without_real_indices(func: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Replace real indices by meta ones if the operation only needs their shapes.

    Boolean masks stay real: their number of set elements decides the shape of the result.
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
