"""What a run made: the accuracy of attempts by the position of the evidence, and the mixture."""

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt


class AttemptReport:
    """Counts attempts and samples as they pass.

    Args:
        bins: equal parts of the context.
    """

    def __init__(self, bins: int) -> None:
        self._right: npt.NDArray[np.int64] = np.zeros(bins, np.int64)
        self._all: npt.NDArray[np.int64] = np.zeros(bins, np.int64)
        self.attempts: Counter[str] = Counter()
        self.final: Counter[str] = Counter()
        self.unusable: Counter[str] = Counter()
        self.uses: Counter[str] = Counter()

    def count(self, position: float | None, is_right: bool, is_right_finally: bool) -> None:
        """Count one attempt.

        Args:
            position: of the evidence, from 0 to 1; None where it is not known.
            is_right: the first answer.
            is_right_finally: the answer behind the model's own corrections, if it made any.
        """
        self.attempts["right" if is_right else "wrong"] += 1
        self.final["right" if is_right_finally else "wrong"] += 1
        self.final["corrected"] += is_right_finally and not is_right
        self.final["spoiled"] += is_right and not is_right_finally
        if position is not None:
            place = min(int(position * len(self._all)), len(self._all) - 1)
            self._all[place] += 1
            self._right[place] += is_right

    def values(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        bins = len(self._all)
        return {
            "attempts": dict(self.attempts),
            "accuracy": _share(self.attempts["right"], self.attempts.total()),
            "final_answers": {name: self.final[name] for name in _FINAL},
            "accuracy_by_position": [
                {
                    "from": place / bins,
                    "to": (place + 1) / bins,
                    "attempts": int(self._all[place]),
                    "accuracy": _share(int(self._right[place]), int(self._all[place])),
                }
                for place in range(bins)
            ],
            "unusable_attempts": dict(sorted(self.unusable.items())),
            "samples": dict(self.uses),
        }


_FINAL = ("right", "wrong", "corrected", "spoiled")


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
