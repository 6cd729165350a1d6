"""Summaries of a trace: the fullest moment of each phase, who holds what, FLOPs, traffic."""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from megatron_in2.training.trace.events import (
    MODEL,
    Allocation,
    Collective,
    Event,
    Kind,
    Operation,
    Phase,
    Trace,
)

PHASES: tuple[Phase, ...] = ("forward", "backward", "update")
HEAD_MODULES = (MODEL, "output_layer")  # the model's own code: loss and logits; and the LM head
RECOMPUTED = " (recomputed)"
_KEPT: tuple[Kind, ...] = ("activations", "head")


@dataclass(frozen=True)
class Peak:
    """The moment of a phase at which most memory is held.

    Args:
        phase: forward, backward or update.
        moment: on the recorder's clock.
        kinds: bytes by what they are for.
    """

    phase: Phase
    moment: int
    kinds: dict[Kind, int]

    @property
    def total(self) -> int:
        """Bytes of the GPU's memory."""
        return sum(size for kind, size in self.kinds.items() if kind != "host")


@dataclass(frozen=True)
class Holder:
    """What one operation of one module, in all layers together, holds at a moment.

    Args:
        kind: what it is for.
        module: of the model, with ``N`` for a layer's number.
        operation: name of the operation that allocated it.
        size: bytes.
        count: of blocks.
    """

    kind: Kind
    module: str
    operation: str
    size: int
    count: int


@dataclass(frozen=True)
class Traffic:
    """All collectives of one name in one kind of group.

    Args:
        name: of the collective.
        group: tensor, context, pipeline, data, embedding or world.
        ranks: of the group.
        calls: how many.
        size: bytes of the whole tensors.
        sent: bytes that this rank sends.
    """

    name: str
    group: str
    ranks: int
    calls: int
    size: int
    sent: float


def peaks(trace: Trace) -> list[Peak]:
    """Return each phase's fullest moment."""
    fullest = dict.fromkeys(PHASES, (-1, 0))  # bytes, moment
    held = 0
    for moment, change, phase in _changes(trace.allocations):
        held += change
        if phase in fullest and held > fullest[phase][0]:
            fullest[phase] = (held, moment)
    found = []
    for phase, (_, moment) in fullest.items():
        kinds: Counter[Kind] = Counter()
        for each in held_at(trace, moment):
            kinds[kind_of(each, trace)] += each.size
        found.append(Peak(phase, moment, dict(kinds)))
    return found


def _changes(allocations: Iterable[Allocation]) -> list[tuple[int, int, Phase | None]]:
    """Return moment, bytes and phase of every allocation and release on the GPU, in order.

    A release has no phase of its own: it makes no moment fuller.
    """
    changes: list[tuple[int, int, Phase | None]] = []
    for each in allocations:
        if each.kind != "host":
            changes.append((each.made, each.size, each.phase))
            if each.released is not None:
                changes.append((each.released, -each.size, None))
    return sorted(changes, key=lambda change: change[0])


def held_at(trace: Trace, moment: int) -> list[Allocation]:
    """Return what is held right after a moment."""
    return [
        each
        for each in trace.allocations
        if each.made <= moment and (each.released is None or each.released > moment)
    ]


def kept_for_backward(trace: Trace) -> list[int]:
    """Return the bytes kept for the backward pass at the end of each micro-batch's forward pass."""
    return [
        sum(each.size for each in held_at(trace, moment) if kind_of(each, trace) in _KEPT)
        for moment in trace.ends_of_micro_batches
    ]


def kind_of(allocation: Allocation, trace: Trace) -> Kind:
    """Return what a block is for.

    A block that a forward pass allocates and that outlives this pass is kept for the backward
    pass: an activation, or the head's.
    """
    if allocation.kind is not None:
        return allocation.kind
    if allocation.module in HEAD_MODULES and allocation.phase != "update":
        return "head"
    end = bisect_left(trace.ends_of_forward, allocation.made)
    outlives = end < len(trace.ends_of_forward) and (
        allocation.released is None or allocation.released > trace.ends_of_forward[end]
    )
    return "activations" if allocation.keeps_graph and outlives else "temporaries"


def holders(trace: Trace, moment: int) -> list[Holder]:
    """Return who holds memory at a moment, most first."""
    sizes: Counter[tuple[Kind, str, str]] = Counter()
    counts: Counter[tuple[Kind, str, str]] = Counter()
    for each in held_at(trace, moment):
        key = (kind_of(each, trace), each.module, each.operation)
        sizes[key] += each.size
        counts[key] += 1
    return [Holder(*key, size, counts[key]) for key, size in sizes.most_common()]


def traffic(events: Sequence[Event]) -> list[Traffic]:
    """Add up collectives by name, group and number of ranks."""
    found: dict[tuple[str, int, str], list[Collective]] = {}
    for each in events:
        if isinstance(each, Collective) and each.name != "barrier":
            found.setdefault((each.group, len(each.ranks), each.name), []).append(each)
    return [
        Traffic(
            name=name,
            group=group,
            ranks=ranks,
            calls=len(calls),
            size=sum(each.size for each in calls),
            sent=sum(each.sent for each in calls),
        )
        for (group, ranks, name), calls in sorted(found.items())
    ]


def flops_by_operation(events: Sequence[Event]) -> dict[str, float]:
    """Add up floating-point operations by kernel, those of recomputation apart."""
    found: defaultdict[str, float] = defaultdict(float)
    for each in events:
        if isinstance(each, Operation) and each.flops:
            found[each.name + (RECOMPUTED if each.is_recomputed else "")] += each.flops
    return dict(found)
