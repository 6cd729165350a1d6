"""Long-context suites: which tasks of lm-evaluation-harness, at which lengths, what score."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# What RULER's harness tasks can score.
RULER_LENGTHS = (4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True)
class Suite:
    """One suite.

    Attributes:
        tasks: their names in the harness; a group counts as one.
        metric: what the harness calls the score; None where it calls it by the length.
        folder: of the harness' tasks, where the suite's are; None for ours.
        repository: on the hub, of which ``--data`` may hold a copy; None where there is none.
        length: how the harness is told a length in tokens; None for a suite without lengths.
        is_chat: whether prompts are put into the model's chat template, where it has one.
        answer_tokens: longest answer, where the harness' own limit would leave no window.
    """

    tasks: tuple[str, ...]
    metric: str | None
    folder: str | None
    repository: str | None = None
    length: Callable[[int], Any] | None = None
    is_chat: bool = True
    answer_tokens: int | None = None

    def metric_at(self, length: int) -> str:
        """Return what the harness calls the score at a length."""
        return self.metric or str(length)


SUITES: dict[str, Suite] = {
    "ruler": Suite(
        tasks=(
            *("niah_single_1", "niah_single_2", "niah_single_3"),
            *("niah_multikey_1", "niah_multikey_2", "niah_multikey_3"),
            *("niah_multivalue", "niah_multiquery", "ruler_vt", "ruler_cwe", "ruler_fwe"),
            *("ruler_qa_squad", "ruler_qa_hotpot"),
        ),
        metric=None,
        folder="ruler",
        length=lambda tokens: [tokens],
    ),
    "babilong": Suite(
        tasks=tuple(f"babilong_qa{number}" for number in range(1, 6)),
        metric="acc",
        folder="babilong",
        repository="RMT-team/babilong-1k-samples",
        length=lambda tokens: f"{tokens // 1024}k",
    ),
    "graphwalks": Suite(
        ("graphwalks_128k",), "f1", "graphwalks", "openai/graphwalks", answer_tokens=2048
    ),
    "longbench2": Suite(
        ("longbench2",), "acc", "longbench2", "recursal/longbench-v2", is_chat=False
    ),
    "helmet_rag": Suite(
        tasks=("helmet_nq", "helmet_triviaqa", "helmet_hotpotqa", "helmet_popqa"),
        metric="score",
        folder=None,
        length=lambda tokens: tokens,
        is_chat=False,
    ),
}


def run_name(suite: str, length: int | None, task: str | None = None) -> str:
    """Return the name of a score: ``ruler_32768``, or ``ruler_32768/ruler_vt`` of one task."""
    name = suite if length is None else f"{suite}_{length}"
    return name if task is None else f"{name}/{task}"
