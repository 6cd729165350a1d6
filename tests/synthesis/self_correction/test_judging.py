"""The judges: what they call right, what wrong, and what they cannot judge."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.synthesis.self_correction.judging import AttemptJudge, choice_in, number_in

WORDS = st.lists(st.sampled_from(["red", "blue", "seven", "Paris", "the", "old"]), min_size=1)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("B.", "B"),
        (" (C) Paris", "C"),
        ("**D**", "D"),
        ("The answer is B.", "B"),
        ("A is wrong, so the answer is (D)", "D"),
        ("I take (E), since it fits.", "E"),
        ("A dog barks.", None),
        ("I know it.", None),
        ("Either (A) or (B)", None),
        ("", None),
    ],
)
def test_the_letter_of_a_choice(text: str, letter: str | None) -> None:
    assert choice_in(text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("4", "4"),
        ("2 + 2 = 4", "4"),
        ("It is 1,234.50 dollars", "1234.50"),
        ("The answer is 7. That was question 3.", "7"),
        ("First 12.\n#### 18", "18"),
        ("-3", "-3"),
        ("v2", None),
        ("none", None),
    ],
)
def test_the_number_of_an_answer(text: str, number: str | None) -> None:
    assert number_in(text) == (None if number is None else Decimal(number))


@given(st.integers(-(10**9), 10**9), st.integers(-(10**9), 10**9))
def test_numbers_are_equal_however_they_are_written(one: int, other: int) -> None:
    judge = AttemptJudge("number", 0.6)
    assert judge.is_right(f"We get {one:,}.", f"It took 5 steps. The answer is {one}")
    assert judge.is_right(f"The answer is {other}", str(one)) == (one == other)


@given(WORDS, WORDS)
def test_exact_words_and_f1_agree_with_a_count(one: list[str], other: list[str]) -> None:
    first, second = " ".join(one), ", ".join(other).upper() + "!"
    same = [word.lower() for word in one] == [word.lower() for word in other]
    assert AttemptJudge("exact", 1).is_right(first, second) == same
    left = [word.lower() for word in other]
    shared = sum(word.lower() in left and not left.remove(word.lower()) for word in one)
    f1 = 2 * shared / (len(one) + len(other))
    for least in (0.3, 0.6, 1.0):
        assert AttemptJudge("f1", least).is_right(first, second) == (f1 >= least)


def test_references_that_cannot_be_judged_by_are_named() -> None:
    assert AttemptJudge("number", 0).problem("none") == "reference has no number"
    assert AttemptJudge("choice", 0).problem("Paris") == "reference names no choice"
    assert AttemptJudge("f1", 0).problem("?!") == "reference has no words"
    assert AttemptJudge("choice", 0).problem("B") is None
