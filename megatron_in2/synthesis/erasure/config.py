"""The settings of one run that makes samples for Prompt Erasing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import get_args

from megatron_in2.choices import as_option, require_choices, wrong_choice
from megatron_in2.errors import InputError
from megatron_in2.synthesis.self_correction.config import JudgeName


@dataclass(frozen=True)
class ErasureConfig:
    """Which strategies there are, and how their answers are asked for and judged.

    Args:
        strategies: directory of strategy files (YAML) in the place of the package's.
        judge: what a final answer shares with the sample's own: exact (all words) | f1 (F1 of the
            words) | choice (the letter) | number (the final number) | model (what --judge-model
            says).
        kind_judges: other judges for some kinds of tasks, each as KIND=JUDGE.
        least_f1: for f1: from which on a final answer is right.
        temperature: of sampling; 0 is greedy.
        max_new_tokens: longest answer in tokens; one that is cut off there is dropped.
        shared_words: an answer that has more words in a row in common with its prompt than this
            is dropped.
        seed: of the draw of the pilot's samples.
    """

    strategies: Path | None = None
    judge: JudgeName = "f1"
    kind_judges: list[str] = field(default_factory=list)
    least_f1: float = 0.6
    temperature: float = 0.0
    max_new_tokens: int = 1024
    shared_words: int = 7
    seed: int = 1234

    @cached_property
    def judges(self) -> Mapping[str, JudgeName]:
        """The judges of kinds that have one of their own."""
        pairs = (each.rpartition("=") for each in self.kind_judges)
        return {kind: judge for kind, _, judge in pairs}  # type: ignore[misc]

    @property
    def needs_judge(self) -> bool:
        """Whether a model judges answers."""
        return "model" in (self.judge, *self.judges.values())

    def judge_of(self, kind: str) -> JudgeName:
        """Return what judges the answers to a kind of task."""
        return self.judges.get(kind, self.judge)

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        for each in self.kind_judges:
            kind, _, judge = each.rpartition("=")
            if not kind:
                raise InputError(f"--kind-judges {each}: give KIND=JUDGE, such as math=number")
            if judge not in get_args(JudgeName):
                raise wrong_choice(f"--kind-judges {each}", get_args(JudgeName))
        for name in ("max_new_tokens", "shared_words"):
            if (count := getattr(self, name)) < 1:
                raise InputError(f"{as_option(name, count)}: give 1 or more")
        if not 0 <= self.least_f1 <= 1:
            raise InputError(f"--least-f1 {self.least_f1}: give 0 to 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0) or self.seed < 0:
            raise InputError("--temperature and --seed: give 0 or more")
