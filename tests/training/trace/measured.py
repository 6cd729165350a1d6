"""What autograd and torch.distributed really see of a case, with real tensors on the CPU.

The program is the trainer's own, on torch's CPU kernels. Its process group is torch's fake one,
which leaves buffers as they are: the numbers mean nothing, but every tensor has its size.
"""

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import ProcessGroup
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_in2.model.packed_row import PackedRow
from megatron_in2.parallel.cpu import cuda_named_as_cpu
from megatron_in2.parallel.rank import Rank
from megatron_in2.parallel.replaced import replaced
from megatron_in2.parallel.world import model_parallel_state
from megatron_in2.training.build import (
    build_module,
    build_optimizer,
    set_update_options,
    wrap_for_data_parallelism,
)
from megatron_in2.training.state import run_schedule
from megatron_in2.training.step.batch import Batch, make_batch
from megatron_in2.training.step.loss import make_forward_step, step_report
from megatron_in2.training.step.own_work import OwnWork
from tests.training.trace.cases import RANKS, Case


@dataclass(frozen=True)
class Measured:
    """One step of one rank.

    Args:
        kept: bytes that autograd keeps at the end of each micro-batch's forward pass.
        calls: of each collective, by name and number of ranks.
        sizes: bytes of the same.
    """

    kept: list[int]
    calls: Counter[tuple[str, int]]
    sizes: Counter[tuple[str, int]]


class _Box:
    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


class _Saved:
    """The storages that autograd keeps, but for those that exist before the step."""

    def __init__(self, existing: Iterable[torch.Tensor]) -> None:
        self._existing = {each.untyped_storage()._cdata for each in existing}
        self._boxes: weakref.WeakSet[_Box] = weakref.WeakSet()

    def bytes(self, row: PackedRow) -> int:
        """Sum the present sizes: Megatron-Core empties storages that it recomputes.

        The row holds its rotation, even where nothing is saved that would need it.
        """
        tensors = [box.tensor for box in self._boxes] + list(row.rotation or ())
        storages = (tensor.untyped_storage() for tensor in tensors)
        sizes = {storage._cdata: storage.nbytes() for storage in storages}
        return sum(size for place, size in sizes.items() if place not in self._existing)

    def pack(self, tensor: torch.Tensor) -> _Box:
        box = _Box(tensor)
        self._boxes.add(box)
        return box


class _Collectives(TorchDispatchMode):
    """Counts collectives of more than one rank."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[tuple[str, int]] = Counter()
        self.sizes: Counter[tuple[str, int]] = Counter()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.namespace == "c10d" and func.overloadpacket.__name__ != "barrier":
            boxes = [each for each in args if isinstance(each, torch.ScriptObject)]
            group = next(each for each in boxes if "ProcessGroup" in str(each._type()))
            key = (func.overloadpacket.__name__, ProcessGroup.unbox(group).size())
            self.calls[key] += 1
            self.sizes[key] += max(sum(_nbytes(each)) for each in args)
        return func(*args, **(kwargs or {}))


def _nbytes(value: Any) -> Iterator[int]:
    if isinstance(value, torch.Tensor):
        yield value.numel() * value.element_size()
    elif isinstance(value, list):
        for each in value:
            yield from _nbytes(each)


def _inputs(batch: Batch) -> Iterator[torch.Tensor]:
    for value in (*vars(batch).values(), *vars(batch.packing).values()):
        if isinstance(value, torch.Tensor):
            yield value


def measure(case: Case, rank: int) -> Measured:
    """Do two steps of a case, and measure the second one."""
    config, place = case.config, Rank(rank, RANKS, rank, RANKS)
    new_group = dist.new_group

    def new_fake_group(*args: Any, backend: Any = None, **options: Any) -> Any:
        return new_group(*args, **options)

    dist.init_process_group("fake", rank=rank, world_size=RANKS, store=FakeStore())
    try:
        with (
            cuda_named_as_cpu(),
            replaced({dist: {"new_group": new_fake_group}}),
            model_parallel_state(config.parallel, place, 0, torch.device("cpu")) as world,
        ):
            module = build_module(config, world)
            model = wrap_for_data_parallelism(module, OwnWork(world.device))
            optimizer = build_optimizer(config, model)
            set_update_options(config, optimizer)
            batch = make_batch(case.row, world)
            saved = _Saved([*(each.data for each in module.parameters()), *_inputs(batch)])
            _step(model, optimizer, batch, 1, world.is_last_stage, saved)
            with _Collectives() as counted:
                kept = _step(
                    model, optimizer, batch, case.micro_batches, world.is_last_stage, saved
                )
    finally:
        dist.destroy_process_group()
    return Measured(kept, counted.calls, counted.sizes)


def _step(
    model: Any, optimizer: Any, batch: Batch, micro_batches: int, has_loss: bool, saved: _Saved
) -> list[int]:
    kept = []

    def forward(batches: Iterator[Batch], model: torch.nn.Module) -> Any:
        output, loss = make_forward_step(step_report)(batches, model)

        def noted(losses: torch.Tensor) -> Any:
            result = loss(losses)
            kept.append(saved.bytes(batch.packing))
            return result

        if not has_loss:
            kept.append(saved.bytes(batch.packing))
        return output, noted

    model.zero_grad_buffer()
    optimizer.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda box: box.tensor):
        batches = iter([batch] * micro_batches)
        run_schedule(model, len(batch.row.tokens), forward, batches, micro_batches, False)
    # What train_step does when loss and norm are finite; here they may be anything.
    optimizer.prepare_grads()
    optimizer.get_grad_norm()
    optimizer.step()
    return kept
