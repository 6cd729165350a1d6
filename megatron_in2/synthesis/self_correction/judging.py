"""Judges an attempt by the reference answer: exact words, F1, the letter of a choice, a number."""

import re
from decimal import Decimal

from megatron_in2.synthesis.questions.filters import question_key, token_f1
from megatron_in2.synthesis.self_correction.config import JudgeName

_SAID = re.compile(r"(?:answer is|answer)\s*:?", re.IGNORECASE)
_MARKED_LETTER = re.compile(r"\s*\**\(?([A-J])(?:\*{0,2}[).:\]]|\s*\Z|\s*\n)")
_LETTER_IN_BRACKETS = re.compile(r"\(([A-J])\)")
_NUMBER = re.compile(r"(?<![\w.])-?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")


class AttemptJudge:
    """Tells right attempts from wrong ones.

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
