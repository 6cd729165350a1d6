"""The benchmarks' metrics on literal cases."""

import pytest

from megatron_in2.evaluation.benchmarks import metrics


@pytest.mark.parametrize(
    ("prediction", "references", "score"),
    [
        ("The cat.", ["cat"], 1.0),  # case, punctuation and articles do not count
        (" a  CAT\n", ["the cat!"], 1.0),
        ("cat dog", ["cat"], 2 / 3),  # precision 1/2, recall 1
        ("cat cat", ["cat"], 2 / 3),  # words count as often as they occur
        ("cat\n\nIt is a dog, and more.", ["cat"], 1.0),  # cut at the first blank line
        ("cat\nIt", ["cat"], 2 / 3),  # a single line break does not cut
        ("dog", ["cat", "the dog"], 1.0),  # the best reference
        ("dog", ["cat"], 0.0),
        ("", ["cat"], 0.0),
        ("the", ["a"], 0.0),  # nothing left on either side
        ("well-known", ["well known"], 0.0),  # punctuation is removed, not parted at
    ],
)
def test_question_f1(prediction: str, references: list[str], score: float) -> None:
    assert metrics.question_f1(prediction, references) == pytest.approx(score)


def test_rouge_l() -> None:
    assert metrics.rouge_l("the cat sat", ["the cat sat"]) == pytest.approx(1.0, abs=1e-6)
    # Longest common subsequence "the sat" of 3 words each.
    assert metrics.rouge_l("the dog sat", ["the cat sat"]) == pytest.approx(2 / 3, abs=1e-6)
    assert metrics.rouge_l("x", ["y", "x"]) == pytest.approx(1.0, abs=1e-6)
    assert metrics.rouge_l("x", ["y"]) == 0.0
    for empty in ("", " ", ".", " . ..\n"):
        assert metrics.rouge_l(empty, ["x"]) == 0.0
    long = " ".join(f"w{n}" for n in range(600)) + "."
    assert metrics.rouge_l(long, [long]) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("\nNumber of something\nQuestion: who?", 1.0),
        ("Number of something, or Date", 0.5),  # two classes are named
        ("something", 0.0),
        ("Date\nNumber of something", 0.0),  # the first line counts
        ("", 0.0),
    ],
)
def test_class_found(prediction: str, score: float) -> None:
    classes = ["Number", "Number of something", "Date"]  # the first is part of the answer's name
    assert metrics.class_found(prediction, "Number of something", classes) == score


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        (" B: bookstore.", 1.0),
        ("I say B", 1.0),
        ("The answer is B", 1.0),
        ("A or B", 0.0),  # the first letter counts
        ("Because it is A", 1.0),  # the B of "Because", as published
        ("none", 0.0),  # no letter means A
        ("", 0.0),
        ("b", 0.0),  # case counts
    ],
)
def test_choice_found(prediction: str, score: float) -> None:
    assert metrics.choice_found(prediction, "bookstore", ["bank", "bookstore", "mall"]) == score


def test_no_letter_means_the_first_choice() -> None:
    assert metrics.choice_found("none", "bank", ["bank", "bookstore"]) == 1.0
    assert metrics.choice_found("E", "bank", ["bank", "bookstore"]) == 0.0


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        ("So 9 * 2 = 18. The answer is 18.", 1.0),
        ("The answer is $18.00", 1.0),
        ("the answer is: 18 dollars", 1.0),
        ("The answer is 17. No: The answer is 18", 1.0),  # the last one counts
        ("The answer is 18.\n\nQuestion: 1+1? The answer is 2.", 1.0),  # its own next question
        ("The answer is 1,8", 1.0),
        ("18", 0.0),  # not said to be the answer
        ("The answer is unclear.", 0.0),
        ("", 0.0),
    ],
)
def test_final_number_matches(prediction: str, score: float) -> None:
    assert metrics.final_number_matches(prediction, "Worked out. The answer is 18.") == score
    assert metrics.final_number_matches(prediction, "18") == score


@pytest.mark.parametrize(
    ("prediction", "score"),
    [
        (r"Thus \boxed{\frac{1}{2}}.", 1.0),
        (r"Thus $\boxed{\dfrac12}$", 1.0),
        ("The answer is $0.5$.", 1.0),
        (r"\boxed{\frac{1}{3}}", 0.0),
        ("no answer", 0.0),
        ("", 0.0),
    ],
)
def test_formula_matches(prediction: str, score: float) -> None:
    assert metrics.formula_matches(prediction, r"So \boxed{\frac{1}{2}}") == score
    assert metrics.formula_matches(prediction, r"$\frac{1}{2}$") == score
