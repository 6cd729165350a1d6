"""The settings of the checks that written questions must pass."""

from dataclasses import dataclass
from typing import Literal

from megatron_in2.synthesis.bounds import require_not_negative, require_shares

ClosedBookJudge = Literal["model", "f1"]


@dataclass(frozen=True)
class FilterConfig:
    """Which written questions are dropped; malformed and empty ones always are.

    Args:
        context_phrases: drop questions and answers that speak of "the context" or "the text".
        max_copied_words: drop answers that copy a longer run of words from the evidence; 0: off.
        duplicate_questions: drop a question that was asked before in this shard.
        citations: drop integration answers whose quotes are not in the cited pieces, or that
            cite fewer than two pieces; off where the prompt asks for no quotes.
        closed_book: ask the writer without the context; drop what it answers rightly.
        closed_book_judge: model (the checker says whether the reply is right) | f1 (free, and
            mostly wrong: docs/synthesis.md has the measurement).
        closed_book_f1: for f1: token F1 with the answer from which on a reply counts as right.
        verify: ask the checker whether the evidence supports the answer; drop what it does not.
        stop_share: end a paid run when more than this share of the last 200 replies is dropped:
            the prompt is wrong then; 1 never ends it.
    """

    context_phrases: bool = True
    max_copied_words: int = 25
    duplicate_questions: bool = True
    citations: bool = True
    closed_book: bool = False
    closed_book_judge: ClosedBookJudge = "model"
    closed_book_f1: float = 0.6
    verify: bool = False
    stop_share: float = 0.6

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_shares("filters", self, "closed_book_f1", "stop_share")
        require_not_negative("filters", self, "max_copied_words")
