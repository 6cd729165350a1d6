"""The probes that a run answers, as it is given them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class AskedProbe:
    """One probe of a run.

    Args:
        prompt: int64 ids.
        answer: ids of the true answer, a good first guess.
        place: of the evidence, from 0 (start) to below 1 (end of the context).
    """

    prompt: npt.NDArray[np.int64]
    answer: list[int]
    place: float


@dataclass(frozen=True)
class ProbeSet:
    """The probes of a run, and how their answers are read.

    Args:
        probes: at least one.
        end_id: ends an answer.
        pad_id: fills rows.
        text_of: decodes an answer's ids.
        score: (index of a probe, text) -> 0 to 1.
    """

    probes: list[AskedProbe]
    end_id: int
    pad_id: int
    text_of: Callable[[list[int]], str]
    score: Callable[[int, str], float]
