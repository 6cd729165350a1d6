"""Greedy decoding by checking drafts, which needs a model's training pass and no cache.

One pass over a prompt and a draft of its answer gives the model's choice after each token of the
draft. Up to the first choice that differs from the draft, all choices are what greedy decoding
gives, the differing one included. The choices are the next draft (Jacobi iteration). A draft that
is right takes one pass; every pass settles at least one more token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass
class AnswerDraft:
    """A prompt, and what is known of the model's answer to it.

    Args:
        prompt: int64 ids.
        guess: ids of the answer, as many as it may have; any guess gives the same answer.
        end_id: ends an answer.
        known: how many ids of ``guess``, from its start, are the model's.
    """

    prompt: npt.NDArray[np.int64]
    guess: list[int]
    end_id: int
    known: int = 0

    @property
    def is_done(self) -> bool:
        """Whether the whole answer is known."""
        return self.known == len(self.guess) or self.end_id in self.guess[: self.known]

    @property
    def answer(self) -> list[int]:
        """The ids that are known, up to the end of the answer, which is left out."""
        known = self.guess[: self.known]
        return known[: known.index(self.end_id)] if self.end_id in known else known

    @property
    def tokens(self) -> npt.NDArray[np.int64]:
        """The prompt with the guess behind it."""
        return np.concatenate([self.prompt, self.guess]).astype(np.int64)

    def check(self, choices: Sequence[int]) -> None:
        """Take the model's choices: one for each id of the guess, given all ids before it."""
        pairs = zip(self.guess, choices, strict=True)
        agreed = next(
            (place for place, (guess, choice) in enumerate(pairs) if guess != choice),
            len(self.guess),
        )
        self.guess, self.known = list(choices), min(agreed + 1, len(self.guess))


def first_guess(answer: Sequence[int], size: int, end_id: int) -> list[int]:
    """Return a guess of ``size`` ids: the true answer, cut, or filled up with ends."""
    return [*answer[:size], *[end_id] * (size - len(answer))]
