"""Question writers: what turns evidence into a question and its answer."""

from typing import Protocol

from megatron_in2.errors import InputError
from megatron_in2.records import QAPair
from megatron_in2.synthesis.extractive import ExtractiveWriter


class QuestionWriter(Protocol):
    """Writes one question for one piece of evidence, or None where it finds nothing to ask."""

    def fine_grained(self, text: str, key: str) -> QAPair | None:
        """Ask about one text. ``key`` names the evidence: the same key gives the same answer."""

    def integration(self, texts: list[str], key: str) -> QAPair | None:
        """Ask what only two or more of the texts together answer."""


def build_writer(name: str, seed: int) -> QuestionWriter:
    """Return the writer of that name.

    Raises:
        InputError: there is none.
    """
    if name == "extractive":
        return ExtractiveWriter(seed)
    raise InputError(f"writer={name!r}: use extractive")
