"""The experiment's plan: which models are trained, on what, from where, and what is compared."""

from dataclasses import dataclass, replace
from typing import Literal

ArmName = Literal["in2", "ends", "mended", "control"]
ThetaName = Literal["1e4", "1e6"]
THETAS: dict[ThetaName, float] = {"1e4": 1.0e4, "1e6": 1.0e6}  # matched in everything else
SEQUENCE_TOKENS = 512  # of a probe, and of the samples of the last phases


@dataclass(frozen=True)
class Dataset:
    """What samples of one training dataset are.

    Args:
        samples: how many.
        tokens: length of the longest, control tokens included.
        row_tokens: of a packed row, the phase's ``data.seq_length``.
        shortest: lengths are drawn evenly from it to ``tokens``; 0 makes all as long as that.
        facts: facts in the longest context, in proportion in shorter ones; 0 makes rows to copy.
        questions: most questions behind a context.
        ends: share of the context, at each end, whose facts are asked about; 0.5 asks about all.
    """

    samples: int
    tokens: int
    row_tokens: int
    shortest: int = 0
    facts: int = 0
    questions: int = 0
    ends: float = 0.5


_SHORT = Dataset(10_500, 128, row_tokens=768, shortest=48, facts=8, questions=6)
_MEDIUM = Dataset(2_400, 256, row_tokens=1024, facts=20, questions=8)
_LONG = Dataset(2_400, SEQUENCE_TOKENS, row_tokens=2048, facts=40, questions=8)
ENDS = 0.05

# About as many samples as the phases' steps take, so that next to nothing is seen twice.
DATASETS = {
    "copy": Dataset(22_400, 64, row_tokens=512),
    "short": _SHORT,
    "medium-in2": _MEDIUM,
    "medium-ends": replace(_MEDIUM, samples=3_000, ends=ENDS),
    "long-in2": _LONG,
    "long-ends": replace(_LONG, samples=2_550, ends=ENDS),
    "more-in2": replace(_LONG, samples=1_600),
    "more-ends": replace(_LONG, samples=1_700, ends=ENDS),
}


@dataclass(frozen=True)
class Run:
    """One training run: a phase's config, the dataset, and the run it starts from (or none)."""

    phase: str
    data: str
    start: str = ""


RUNS = {
    "copy": Run("copy", "copy"),
    "short": Run("short", "short", "copy"),
    "in2-medium": Run("medium", "medium-in2", "short"),
    "in2": Run("long", "long-in2", "in2-medium"),
    "ends-medium": Run("medium", "medium-ends", "short"),
    "ends": Run("long", "long-ends", "ends-medium"),
    "mended": Run("more", "more-in2", "ends"),
    "control": Run("more", "more-ends", "ends"),
}  # in an order in which each starts from an earlier one


@dataclass(frozen=True)
class Arm:
    """One curve of the figure."""

    title: str
    colour: str


ARMS: dict[ArmName, Arm] = {
    "in2": Arm("a  IN2 from the start", "#2E7D32"),
    "ends": Arm("b  evidence only at the ends", "#7F7F7F"),
    "mended": Arm("c  b + IN2 steps", "#E97132"),
    "control": Arm("d  b + as many steps of its own data", "#0F9ED5"),
}
