"""The settings of one run that makes self-correction samples."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_in2.choices import as_option, require_choices
from megatron_in2.errors import InputError

JudgeName = Literal["exact", "f1", "choice", "number", "model"]
CorrectionName = Literal["reference", "writer"]


@dataclass(frozen=True)
class SelfCorrectionConfig:
    """How attempts are drawn, judged and mixed.

    Args:
        tries: attempts drawn for each sample.
        temperature: of sampling; 0 is greedy and allows one try.
        top_p: share of the probability that is sampled from.
        max_new_tokens: longest attempt in tokens; one that is cut off there is not used.
        seed: the same seed, samples and model give the same output.
        judge: what an attempt shares with the reference answer: exact (all words) | f1 (F1 of
            the words) | choice (the letter) | number (the final number) | model (what a second
            model says, see the teacher).
        least_f1: for f1: from which on an attempt is right.
        wrong_share: share of wrong attempts among the samples with an attempt.
        plain_share: share of plain samples, without an attempt, in the output.
        correct_by: what follows the verification of a wrong attempt: reference (the sample's own
            answer) | writer (a sentence of the teacher on what is wrong, then that answer).
        corrections: wrong attempts in one sample at most, each followed by a verification.
        wordings: YAML file with the sentences of verification, lists ``right`` and ``wrong``;
            the package's own where none is named.
        bins: equal parts of the context by which the report gives the accuracy of attempts.
    """

    tries: int = 4
    temperature: float = 0.8
    top_p: float = 1.0
    max_new_tokens: int = 128
    seed: int = 1234
    judge: JudgeName = "f1"
    least_f1: float = 0.6
    wrong_share: float = 0.5
    plain_share: float = 0.5
    correct_by: CorrectionName = "reference"
    corrections: int = 1
    wordings: Path | None = None
    bins: int = 10

    @property
    def needs_teacher(self) -> bool:
        """Whether a second model is asked."""
        return self.judge == "model" or self.correct_by == "writer"

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        for name in ("tries", "max_new_tokens", "corrections", "bins"):
            if (count := getattr(self, name)) < 1:
                raise InputError(f"{as_option(name, count)}: give 1 or more")
        for name in ("least_f1", "wrong_share", "top_p"):
            if not 0 <= (share := getattr(self, name)) <= 1:
                raise InputError(f"{as_option(name, share)}: give 0 to 1")
        if not 0 <= self.plain_share < 1:
            raise InputError(f"--plain-share {self.plain_share}: give 0 or more, and less than 1")
        if not (math.isfinite(self.temperature) and self.temperature >= 0) or self.seed < 0:
            raise InputError("--temperature and --seed: give 0 or more")
        if not self.temperature and self.tries > 1:
            raise InputError(
                f"--temperature 0 gives the same attempt --tries {self.tries} times: give --tries 1"
            )
