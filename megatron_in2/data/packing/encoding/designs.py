"""Which parts of a sample are trained on: a sample is a list of parts, and a design marks them."""

from dataclasses import dataclass
from typing import Literal

DesignName = Literal["answer", "prompt-erasing", "partial-answer-masking", "all-assistant-turns"]
GENERIC_SYSTEM = "You are a helpful assistant."


@dataclass(frozen=True)
class Design:
    """A choice of what is trained on; every one includes answers with their end-of-sequence.

    ``erases_system`` puts a generic instruction in the place of a sample's system message (Prompt
    Erasing, Orca 2, arXiv 2311.11045). ``has_attempt`` takes a sample's wrong ``attempt`` into the
    input, without loss, before the answer that verifies and corrects it (Partial Answer Masking,
    arXiv 2401.07301); other designs refuse samples that have one. ``learns_every_turn`` trains on
    all assistant turns, whatever ``train`` says.
    """

    name: DesignName
    erases_system: bool = False
    has_attempt: bool = False
    learns_every_turn: bool = False


DESIGNS: dict[DesignName, Design] = {
    design.name: design
    for design in (
        Design("answer"),
        Design("prompt-erasing", erases_system=True),
        Design("partial-answer-masking", has_attempt=True),
        Design("all-assistant-turns", learns_every_turn=True),
    )
}
