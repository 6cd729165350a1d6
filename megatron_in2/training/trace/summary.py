"""What a trace comes to: the fullest moment of each phase, and who holds what then."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from megatron_in2.training.trace.events import Allocation, Collective, Event, Kind, Operation, Phase

PHASES: tuple[Phase, ...] = ("forward", "backward", "update")
HEAD_MODULES = ("", "output_layer")  # the model's own code, behind the decoder, and the LM head


@dataclass(frozen=True)
class Peak:
    """The moment of a phase at which most memory is held.

    Args:
        phase: forward, backward or update.
        kinds: bytes by what they are for.
    """

    phase: Phase
    kinds: dict[Kind, int]

    @property
    def total(self) -> int:
        """Bytes of the GPU's memory."""
        return sum(size for kind, size in self.kinds.items() if kind != "host")


@dataclass(frozen=True)
class Holder:
    """What one operation of one module, in all layers, holds at the fullest moment.

    Args:
        kind: what it is for.
        module: layers without their numbers.
        operation: that made it.
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
    """All collectives of one name in one group.

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


def peaks(allocations: Sequence[Allocation], ends_of_forward: Sequence[int]) -> list[Peak]:
    """Return each phase's fullest moment."""
    best = {phase: (-1, 0) for phase in PHASES}  # bytes, moment
    changes = [(each.made, each.size, each.phase) for each in allocations if each.kind != "host"]
    changes += [
        (each.released, -each.size, None)
        for each in allocations
        if each.released is not None and each.kind != "host"
    ]
    held = 0
    for moment, change, phase in sorted(changes):
        held += change
        if phase in best and held > best[phase][0]:
            best[phase] = (held, moment)
    found = []
    for phase, (_, moment) in best.items():
        kinds: Counter[Kind] = Counter()
        for each in held_at(allocations, moment):
            kinds[kind_of(each, ends_of_forward)] += each.size
        found.append(Peak(phase, dict(kinds)))
    return found


def held_at(allocations: Sequence[Allocation], moment: int) -> list[Allocation]:
    """Return what is held right after a moment."""
    return [
        each
        for each in allocations
        if each.made <= moment and (each.released is None or each.released > moment)
    ]


def kind_of(allocation: Allocation, ends_of_forward: Sequence[int]) -> Kind:
    """Say what a block is for.

    A block that a forward pass makes and that outlives it is kept for the backward pass: an
    activation, or the head's.
    """
    if allocation.kind is not None:
        return allocation.kind
    if allocation.phase == "build":
        return "other"
    if allocation.module in HEAD_MODULES and allocation.phase != "update":
        return "head"
    end = bisect_left(ends_of_forward, allocation.made)
    outlives = end < len(ends_of_forward) and (
        allocation.released is None or allocation.released > ends_of_forward[end]
    )
    return "activations" if allocation.keeps_graph and outlives else "temporaries"


def holders(
    allocations: Sequence[Allocation], ends_of_forward: Sequence[int], moment: int
) -> list[Holder]:
    """Return who holds memory at a moment, most first."""
    sizes: Counter[tuple[Kind, str, str]] = Counter()
    counts: Counter[tuple[Kind, str, str]] = Counter()
    for each in held_at(allocations, moment):
        key = (kind_of(each, ends_of_forward), each.module, each.operation)
        sizes[key] += each.size
        counts[key] += 1
    return [Holder(*key, size, counts[key]) for key, size in sizes.most_common()]


def traffic(events: Sequence[Event]) -> list[Traffic]:
    """Add up collectives by name and group."""
    found: dict[tuple[str, str], list[Collective]] = {}
    for each in events:
        if isinstance(each, Collective) and each.name != "barrier":
            found.setdefault((each.name, each.group), []).append(each)
    return [
        Traffic(
            name=name,
            group=group,
            ranks=len(calls[0].ranks),
            calls=len(calls),
            size=sum(each.size for each in calls),
            sent=sum(each.sent for each in calls),
        )
        for (name, group), calls in sorted(found.items(), key=lambda item: item[0][::-1])
    ]


def flops_by_operation(events: Sequence[Event]) -> dict[str, float]:
    """Add up floating-point operations by kernel; repeated forward passes apart."""
    found: Counter[str] = Counter()
    for each in events:
        if isinstance(each, Operation) and each.flops:
            suffix = " (recomputed)" if each.is_recomputed else ""
            found[each.name + suffix] += each.flops  # type: ignore[assignment] # a float
    return dict(found)
