"""Greedy decoding by drafts gives what token by token decoding gives."""

import zlib
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.training.generation.drafts import AnswerDraft, first_guess

END = 0
PROMPT = np.array([5, 6])
Model = Callable[[Sequence[int]], int]  # ids so far -> the next one


def _model(vocabulary: int, seed: int) -> Model:
    """A model that looks at everything before."""
    return lambda ids: zlib.crc32(bytes([seed, *ids])) % vocabulary


def _step_by_step(model: Model, size: int) -> list[int]:
    answer: list[int] = []
    while len(answer) < size and (token := model([*PROMPT, *answer])) != END:
        answer.append(token)
    return answer


def _by_drafts(model: Model, guess: list[int]) -> tuple[list[int], int]:
    draft, passes = AnswerDraft(PROMPT, guess, END), 0
    while not draft.is_done:
        before = [[*PROMPT, *draft.guess[:place]] for place in range(len(draft.guess))]
        draft.check([model(ids) for ids in before])
        passes += 1
    return draft.answer, passes


@given(
    vocabulary=st.integers(1, 12),
    seed=st.integers(0, 255),
    guess=st.lists(st.integers(0, 11), min_size=1, max_size=9),
)
def test_any_guess_gives_the_greedy_answer(vocabulary: int, seed: int, guess: list[int]) -> None:
    model = _model(vocabulary, seed)
    expected = _step_by_step(model, len(guess))
    answer, passes = _by_drafts(model, guess)
    assert answer == expected
    assert 1 <= passes <= len(expected) + 1


def test_a_right_guess_takes_one_pass_and_a_wrong_one_more() -> None:
    model = _model(12, 3)
    right = first_guess(_step_by_step(model, 8), 8, END)
    assert _by_drafts(model, right)[1] == 1
    answer, passes = _by_drafts(model, [right[0] + 1, *right[1:]])
    assert answer == _step_by_step(model, 8)
    assert passes > 1


@pytest.mark.parametrize(
    ("answer", "guess"), [([1, 2], [1, 2, 0, 0]), ([1, 2, 3, 4, 5], [1, 2, 3, 4])]
)
def test_first_guesses(answer: list[int], guess: list[int]) -> None:
    assert first_guess(answer, 4, END) == guess
