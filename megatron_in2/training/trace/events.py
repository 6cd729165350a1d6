"""What a trace records: allocations, operations and collectives, in the order of the program."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_in2.training.arithmetic.checkpoint_share import CheckpointShare

Phase = Literal["build", "forward", "backward", "update"]
Kind = Literal[
    "weights", "gradients", "optimizer", "activations", "head", "temporaries", "other", "host"
]

MODEL = "(model)"  # in place of the name of the whole model, which has none


@dataclass(slots=True)
class Allocation:
    """One block of memory.

    Args:
        size: bytes.
        made: moment of its allocation, on the recorder's clock.
        phase: in which it was allocated.
        module: module of the model that allocated it, with ``N`` for a layer's number.
        operation: name of the operation that allocated it.
        kind: what it is for, if that is known on allocation; else see :func:`summary.kind_of`.
        keeps_graph: allocated by a forward pass, first or recomputed.
        released: moment of its release; None if it is still held at the end.
    """

    size: int
    made: int
    phase: Phase
    module: str
    operation: str
    kind: Kind | None
    keeps_graph: bool
    released: int | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One kernel.

    Args:
        name: torch's name of the operation.
        module: module of the model whose forward or backward pass it belongs to.
        phase: forward, backward or update.
        flops: floating-point operations of matrix products and attention; 0 for others.
        moved: bytes read and written.
        is_recomputed: it repeats a part of the forward pass in the backward pass.
    """

    name: str
    module: str
    phase: Phase
    flops: float
    moved: int
    is_recomputed: bool


@dataclass(frozen=True, slots=True)
class Collective:
    """One collective, or one message between two ranks.

    Args:
        name: all_gather, reduce_scatter, all_reduce, broadcast, send or receive.
        group: kind of its group: tensor, context, pipeline, data, embedding or world.
        ranks: the ranks of the group.
        size: bytes of the whole tensor that is gathered, scattered or reduced.
        phase: forward, backward or update.
        module: module of the model that calls it.
    """

    name: str
    group: str
    ranks: tuple[int, ...]
    size: int
    phase: Phase
    module: str

    @property
    def sent(self) -> float:
        """Bytes that this rank sends over its links with a ring algorithm."""
        others = (len(self.ranks) - 1) / len(self.ranks)
        if self.name in ("send", "receive"):
            return self.size if self.name == "send" else 0.0
        return self.size * others * (2 if self.name == "all_reduce" else 1)


@dataclass(frozen=True, slots=True)
class Wait:
    """The program waits for an asynchronous collective.

    Args:
        collective: index of the collective among the trace's events.
    """

    collective: int


@dataclass(frozen=True, slots=True)
class MicroBatchEnd:
    """The forward pass of a micro-batch is over, the loss included."""


Event = Operation | Collective | Wait | MicroBatchEnd


@dataclass(frozen=True)
class Trace:
    """What one rank does in one optimizer step.

    Args:
        allocations: every block that is held at some moment of the step.
        events: operations, collectives and waits.
        ends_of_forward: moments at which a forward pass, or a recomputed part of one, ends.
        ends_of_micro_batches: those of them at which a micro-batch's forward pass ends.
        checkpoint: what the rank would write and read of a checkpoint.
    """

    allocations: Sequence[Allocation]
    events: Sequence[Event]
    ends_of_forward: Sequence[int]
    ends_of_micro_batches: Sequence[int]
    checkpoint: CheckpointShare
