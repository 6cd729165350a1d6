"""Messages that are too long lose their middle, whatever the text and the window."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.truncation import Window
from megatron_in2.templates.film import FILM

_WRITE: Callable[[str], str] = FILM.prompt_text
_CHARACTERS = st.sampled_from("ab \n.é漢🙂")


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model)


# A window of 20 tokens may be too small: a character can take 4 ids, and is kept or left out whole.
@settings(max_examples=60, deadline=None)
@given(text=st.text(_CHARACTERS, min_size=1, max_size=200), tokens=st.integers(40, 200))
def test_it_fits_and_the_ends_are_kept(tokenizer: Any, text: str, tokens: int) -> None:
    window = Window(tokenizer, tokenizer.encode, tokens)
    whole = len(tokenizer.encode(_WRITE(text)))
    shorter = window.shortened(text, _WRITE)
    assert (shorter == text) == (whole <= tokens)
    assert len(tokenizer.encode(_WRITE(shorter))) <= tokens
    start = max(n for n in range(len(shorter) + 1) if text.startswith(shorter[:n]))
    assert text.endswith(shorter[start:])


def test_nothing_that_fits_is_changed_and_nothing_is_left_of_a_window_too_small(
    tokenizer: Any,
) -> None:
    text = "A few words that fit."
    alone = len(tokenizer.encode(_WRITE(text)))
    assert Window(tokenizer, tokenizer.encode, alone).shortened(text, _WRITE) == text
    assert len(Window(tokenizer, tokenizer.encode, alone - 1).shortened(text, _WRITE)) < len(text)
    with pytest.raises(InputError, match="a window of 3 tokens for prompts holds nothing but"):
        Window(tokenizer, tokenizer.encode, 3).shortened(text, _WRITE)
