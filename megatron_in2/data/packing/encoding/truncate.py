"""Shortens a sample's context: fillers are cut away, evidence, question and template stay."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packing.encoding.samples import middle_position
from megatron_in2.records import ContextPart, JoinedPart, Sample, id_hash, slot_position
from megatron_in2.segment_store import SegmentStore


def kept_slots(
    costs: npt.NDArray[np.int64], evidence: set[int], excess: int, key: int
) -> list[int] | None:
    """Choose which slots of a context stay: all evidence, and fillers drawn by the sample's key.

    Fillers go at random, so evidence keeps its place relative to what is left.

    Args:
        costs: tokens of each slot, int64 [n].
        evidence: slots that may not go.
        excess: tokens that must go.
        key: 64-bit hash of the sample's id.

    Returns:
        The slots that stay, in order, or None where the fillers do not suffice.
    """
    order = np.random.default_rng(key).permutation(len(costs))
    fillers = order[~np.isin(order, list(evidence))]
    removed = np.cumsum(costs[fillers])
    needed = int(np.searchsorted(removed, excess)) + 1
    if needed > len(fillers):
        return None
    gone = set(fillers[:needed].tolist())
    return [slot for slot in range(len(costs)) if slot not in gone]


def shortened(
    sample: Sample,
    excess: int,
    open_store: Callable[[JoinedPart], SegmentStore],
    count_line: Callable[[str], int],
) -> Sample | None:
    """Cut at least ``excess`` tokens of fillers from a sample's context.

    A recipe loses segments; a text loses lines that hold no evidence.

    Args:
        sample: one of whose parts holds the context.
        excess: tokens that must go.
        open_store: opens a recipe's segment store.
        count_line: counts the tokens of a line, its newline included.

    Returns:
        The shorter sample, or None where it has no context, its evidence is not known, or its
        fillers do not suffice.
    """
    kinds = (JoinedPart, ContextPart)
    contexts = [i for i, part in enumerate(sample.parts) if isinstance(part, kinds)]
    if not contexts:
        return None
    place = contexts[0]
    part = sample.parts[place]
    assert isinstance(part, JoinedPart | ContextPart)
    if not part.evidence:
        return None
    cut: tuple[JoinedPart | ContextPart, float] | None
    if isinstance(part, JoinedPart):
        cut = _shorter_recipe(sample.id, part, excess, open_store(part))
    else:
        cut = _shorter_text(sample.id, part, excess, count_line)
    if cut is None:
        return None
    short, position = cut
    return replace(
        sample,
        parts=(*sample.parts[:place], short, *sample.parts[place + 1 :]),
        evidence_position=position,
        stated_tokens=None,
    )


def _shorter_recipe(
    identity: str, part: JoinedPart, excess: int, store: SegmentStore
) -> tuple[JoinedPart, float] | None:
    costs = store.lengths[np.array(part.segments)] + store.line_end_tokens
    kept = kept_slots(costs, set(part.evidence), excess, id_hash(identity))
    if kept is None:
        return None
    evidence = tuple(kept.index(slot) for slot in part.evidence)
    short = replace(part, segments=tuple(part.segments[slot] for slot in kept), evidence=evidence)
    return short, slot_position(identity, min(evidence), len(kept))


def _shorter_text(
    identity: str, part: ContextPart, excess: int, count_line: Callable[[str], int]
) -> tuple[ContextPart, float] | None:
    lines = part.context.split("\n")
    starts = list(itertools.accumulate((len(line) + 1 for line in lines), initial=0))
    first_lines = [int(np.searchsorted(starts, start, "right")) - 1 for start, _ in part.evidence]
    last_lines = [int(np.searchsorted(starts, end - 1, "right")) - 1 for _, end in part.evidence]
    held = {
        line
        for first, last in zip(first_lines, last_lines, strict=True)
        for line in range(first, last + 1)
    }
    costs = np.array([count_line(line) for line in lines], np.int64)
    kept = kept_slots(costs, held, excess, id_hash(identity))
    if kept is None:
        return None
    new_starts = dict(
        zip(kept, itertools.accumulate((len(lines[k]) + 1 for k in kept), initial=0), strict=False)
    )
    evidence = tuple(
        (start + new_starts[line] - starts[line], end + new_starts[line] - starts[line])
        for (start, end), line in zip(part.evidence, first_lines, strict=True)
    )
    context = "\n".join(lines[slot] for slot in kept)
    return replace(part, context=context, evidence=evidence), middle_position(
        evidence[0], len(context)
    )
