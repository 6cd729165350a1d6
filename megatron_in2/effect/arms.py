"""The experiment's plan: training runs, their data and starting points, and the curves."""

from dataclasses import dataclass, replace
from typing import Literal

ArmName = Literal["in2", "ends", "fixed", "control"]
ThetaName = Literal["1e4", "1e6"]
THETAS: dict[ThetaName, float] = {"1e4": 1.0e4, "1e6": 1.0e6}  # nothing else differs
SEQUENCE_TOKENS = 512  # of a probe, and of the samples of the last phases


@dataclass(frozen=True)
class Dataset:
    """The samples of one training dataset.

    Args:
        samples: number of samples.
        tokens: length of the longest sample, control tokens included.
        row_tokens: length of a packed row, the phase's ``data.seq_length``.
        shortest: lengths are drawn uniformly from this to ``tokens``; 0 makes all that long.
        facts: facts in the longest context, proportionally fewer in shorter ones; 0 makes rows of
            repeated words instead.
        questions: largest number of questions after a context.
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

# About as many samples as the phases' steps need, so that almost none is seen twice.
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
    """One training run: a phase's config, the dataset, and the run that it starts from, if any."""

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
    "fixed": Run("more", "more-in2", "ends"),
    "control": Run("more", "more-ends", "ends"),
}  # each run starts from an earlier one in this list


@dataclass(frozen=True)
class Arm:
    """One curve of the figure."""

    title: str
    colour: str


ARMS: dict[ArmName, Arm] = {
    "in2": Arm("a  IN2 from the start", "#2E7D32"),
    "ends": Arm("b  evidence only at the ends", "#7F7F7F"),
    "fixed": Arm("c  b + IN2 steps", "#E97132"),
    "control": Arm("d  b + as many steps of its own data", "#0F9ED5"),
}
