"""Judges an attempt by the reference answer: exact words, F1, the letter of a choice, a number."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from megatron_in2.synthesis.questions.filters import question_key, token_f1
from megatron_in2.synthesis.self_correction.config import JudgeName
from megatron_in2.synthesis.self_correction.tasks import Task

Verdicts = Mapping[str, bool | None]  # by the text that is judged; None where there is none

_SAID = re.compile(r"(?:answer is|answer)\s*:?", re.IGNORECASE)
_MARKED_LETTER = re.compile(r"\s*\**\(?([A-J])\*{0,2}(?:[).:\]]|\s*\Z|\s*\n)")
_LETTER_IN_BRACKETS = re.compile(r"\(([A-J])\)")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


@dataclass(frozen=True)
class Parted:
    """The replies to one task, each as the answers between its verifications.

    ``problem`` says why none can be used.
    """

    task: Task
    replies: tuple[tuple[str, ...], ...] = ()
    problem: str | None = None

    @property
    def texts(self) -> list[str]:
        """The answers that need a verdict, each once: the first and the last of every reply."""
        return list(dict.fromkeys(each for reply in self.replies for each in (reply[0], reply[-1])))


class Judge(Protocol):
    """Tells right answers from wrong ones: a rule, or a model."""

    def problem(self, reference: str) -> str | None:
        """Return why answers cannot be judged by this reference, or None."""

    def verdicts(self, items: Iterable[Parted]) -> Iterator[tuple[Parted, Verdicts]]:
        """Yield each item with the verdicts on its texts, in order."""


class AttemptJudge:
    """Tells right attempts from wrong ones by a rule.

    Args:
        rule: what they must share with the reference.
        least_f1: for ``f1``: from which on an attempt is right.
    """

    def __init__(self, rule: JudgeName, least_f1: float) -> None:
        self._rule = rule
        self._least_f1 = least_f1

    def problem(self, reference: str) -> str | None:
        """Return why attempts cannot be judged by this reference, or None."""
        if self._rule == "choice" and choice_in(reference) is None:
            return "reference names no choice"
        if self._rule == "number" and number_in(reference) is None:
            return "reference has no number"
        if self._rule in ("exact", "f1") and not question_key(reference):
            return "reference has no words"
        return None

    def verdicts(self, items: Iterable[Parted]) -> Iterator[tuple[Parted, Verdicts]]:
        """Yield each item with the verdicts on its texts."""
        for each in items:
            reference = each.task.reference
            yield each, {text: self.is_right(text, reference) for text in each.texts}

    def is_right(self, attempt: str, reference: str) -> bool:
        """Whether an attempt says what the reference says."""
        match self._rule:
            case "exact":
                return question_key(attempt) == question_key(reference)
            case "f1":
                return token_f1(attempt, reference) >= self._least_f1
            case "choice":
                return choice_in(attempt) == choice_in(reference)
            case "number":
                return number_in(attempt) == number_in(reference)
            case "model":
                raise AssertionError("a model judges through the teacher")


def choice_in(text: str) -> str | None:
    """Return the letter, A to J, that a text names as its choice; None where it names none.

    That is the one behind the last "answer is", else the one that the text begins with
    ("B", "B.", "(B)"), else the only one in brackets. A word such as "A" or "I" is none.
    """
    said = list(_SAID.finditer(text))
    if said and (found := _MARKED_LETTER.match(text[said[-1].end() :])):
        return found[1]
    if found := _MARKED_LETTER.match(text):
        return found[1]
    letters = set(_LETTER_IN_BRACKETS.findall(text))
    return letters.pop() if len(letters) == 1 else None


def number_in(text: str) -> Decimal | None:
    """Return the number that a text ends with, the one behind the last "answer is" or ``####``.

    Commas between digits do not count; None where there is no number.
    """
    _, mark, final = text.rpartition("####")
    said = list(_SAID.finditer(text))
    if mark:
        numbers = _NUMBER.findall(final)[:1]
    elif said:
        numbers = _NUMBER.findall(text[said[-1].end() :])[:1]
    else:
        numbers = []
    numbers = numbers or _NUMBER.findall(text)[-1:]
    return Decimal(numbers[0].replace(",", "")) if numbers else None
