"""The rules of FILM's own scripts, on literal cases and beside the standard ones."""

import pytest

from megatron_in2.evaluation.benchmarks import film_metrics, metrics


@pytest.mark.parametrize(
    ("prediction", "film", "standard"),
    [
        ("So 9 * 2 = 18. The answer is 18.", 1.0, 1.0),
        ("the answer is 18.", 0.0, 1.0),  # only a capital counts for FILM
        ("The answer is 17. No, the answer is 18.", 1.0, 1.0),  # once there, any case continues
        ("The answer is: 18.", 1.0, 1.0),
        ("The answer is $18.00.", 1.0, 1.0),
        ("The answer is £18", 1.0, 1.0),
        ("The answer is 1,8", 1.0, 1.0),
        ("The answer is 9*2=18", 1.0, 0.0),  # FILM reads what follows the last "="
        ("The answer is 9*2", 1.0, 0.0),  # and calculates
        ("The answer is 36/2", 1.0, 0.0),
        ("The answer is -18", 0.0, 0.0),
        ("The answer is 18%", 1.0, 1.0),
        ("The answer is 18/0", 0.0, 1.0),
        ("The answer is about 18", 0.0, 1.0),  # only the first word
        ("The answer is 18.\n\nQ: 1+1? The answer is 2.", 1.0, 1.0),
        ("The answer is 18.\n\nQuestion: 1+1? The answer is 2.", 1.0, 1.0),
        ("18", 0.0, 0.0),
        ("", 0.0, 0.0),
        ("The answer is __import__('os')", 0.0, 0.0),  # nothing but arithmetic is calculated
    ],
)
def test_final_number(prediction: str, film: float, standard: float) -> None:
    for answer in ("18", "Worked out. The answer is 18.", "9 + 9 = <<9+9=18>>18\n#### 18"):
        assert film_metrics.final_number_matches(prediction, answer) == film
        assert metrics.final_number_matches(prediction, answer) == standard


@pytest.mark.parametrize(
    ("prediction", "matches"),
    [
        (r"Thus \boxed{\frac{1}{2}}.", 1.0),
        ("The answer is $0.5$.", 1.0),
        (r"\boxed{3} The answer is \dfrac12", 1.0),  # the words count before the box
        (r"The answer is $\boxed{\tfrac{1}{2}}$.", 1.0),
        ("The answer is 1/2.\n\nQ: 2?\nThe answer is 2.", 1.0),
        ("the answer is 1/2", 0.0),
        ("The answer is a/b", 0.0),
        (r"The answer is \boxed{", 0.0),
        ("no answer", 0.0),
        ("", 0.0),
    ],
)
def test_formula(prediction: str, matches: float) -> None:
    for answer in (r"So \boxed{\frac{1}{2}}", r"\frac{1}{2}", r"The answer is $\frac12$."):
        assert film_metrics.formula_matches(prediction, answer) == matches


def test_commas_count_where_the_answer_has_them() -> None:
    assert film_metrics.formula_matches("The answer is 1,000.", "1000") == 1.0
    assert film_metrics.formula_matches("The answer is (12).", "(1,2)") == 0.0
    assert film_metrics.formula_matches("The answer is (1,2).", "(1,2)") == 1.0
