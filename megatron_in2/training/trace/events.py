"""What a trace records: allocations, operations, and collectives, in the order of the program."""

from dataclasses import dataclass
from typing import Literal

Phase = Literal["build", "forward", "backward", "update"]
Kind = Literal[
    "weights", "gradients", "optimizer", "activations", "head", "temporaries", "other", "host"
]


@dataclass(slots=True)
class Allocation:
    """One block of memory.

    Args:
        size: bytes.
        made: when, on the recorder's clock of allocations and releases.
        released: likewise; None while it is held.
        phase: in which it was made.
        module: which module of the model made it, layers without their numbers.
        operation: which operation did.
        kind: what it is for, where that is known when it is made; else :func:`kinds.kind_of` says.
        keeps_graph: made while autograd records a graph, or by a recomputed forward pass.
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
        name: of the operation.
        module: whose it is, forward or backward.
        phase: forward, backward or update.
        flops: floating-point operations.
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
        group: of which ranks, by the parallelism that it serves.
        ranks: the ranks of the group.
        size: bytes of the whole tensor: what is gathered, scattered or reduced.
        phase: forward, backward or update.
        module: whose it is.
    """

    name: str
    group: str
    ranks: tuple[int, ...]
    size: int
    phase: Phase
    module: str

    @property
    def sent(self) -> float:
        """Bytes that this rank sends over its links, by a ring algorithm."""
        others = (len(self.ranks) - 1) / len(self.ranks)
        if self.name in ("send", "receive"):
            return self.size if self.name == "send" else 0.0
        return self.size * others * (2 if self.name == "all_reduce" else 1)


@dataclass(frozen=True, slots=True)
class Wait:
    """The program waits for a collective that it had started before.

    Args:
        collective: its place in the trace's events.
    """

    collective: int


Event = Operation | Collective | Wait
