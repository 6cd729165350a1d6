"""The check that no answer gives away the prompt that is erased."""

import string

from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.synthesis.erasure.mentions import prompt_mention
from megatron_in2.synthesis.erasure.strategies import load_strategies
from megatron_in2.synthesis.quality.words import words

PROMPTS = {name: each.prompt for name, each in load_strategies(None).items()}
MOST = 7
WORD = st.text(alphabet="qxzj", min_size=3, max_size=8)  # in none of the prompts


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(sorted(PROMPTS)))
def test_a_run_of_the_prompt_is_found_wherever_it_is(data: st.DataObject, name: str) -> None:
    prompt = words(PROMPTS[name])
    length = data.draw(st.integers(1, len(prompt)))
    start = data.draw(st.integers(0, len(prompt) - length))
    run = [
        data.draw(st.sampled_from([word, word.upper(), word.title()]))
        + data.draw(st.sampled_from(["", *string.punctuation.replace("'", "")]))
        for word in prompt[start : start + length]
    ]
    before, after = data.draw(st.lists(WORD)), data.draw(st.lists(WORD))
    answer = " ".join([*before, *run, *after])
    found = prompt_mention(answer, PROMPTS[name], "Who?", MOST)
    assert found == ("repeats the erased prompt" if length > MOST else None)
    # What the task says itself is no mention.
    task = f"Do this: {' '.join(run)}, please."
    assert prompt_mention(answer, PROMPTS[name], task, MOST) is None


@settings(max_examples=20, deadline=None)
@given(st.lists(WORD), st.sampled_from(sorted(PROMPTS)))
def test_an_answer_of_other_words_is_no_mention(answer: list[str], name: str) -> None:
    assert prompt_mention(" ".join(answer), PROMPTS[name], "", MOST) is None


def test_phrases_that_speak_of_instructions() -> None:
    prompt = PROMPTS["step-by-step"]
    for answer in (
        "As instructed, here are the steps.",
        "I was told to quote first.",
        "I’ve been asked to explain.",
        "Following the instructions above: 4.",
        "In accordance with the given guidelines, 4.",
        "You asked me to number the steps.",
        "The system prompt wants steps.",
        "My instructions say so.",
        "The prompt asks for steps.",
    ):
        assert prompt_mention(answer, prompt, "What is 2 + 2?", MOST) == (
            "speaks of its instructions"
        ), answer
    for answer in (
        "The soldiers were told to wait, and the prompt reply came at noon.",
        "He wrote the instructions of the game in 1904.",
        "The guidelines of the union changed.",
        "You want to add two and two.",
        "1. 2 + 2 is 4.\nFinal answer: 4",
    ):
        assert prompt_mention(answer, prompt, "What is 2 + 2?", MOST) is None, answer
    said = "The recipe: 'as instructed, stir.'"
    assert prompt_mention("As instructed, stir.", prompt, said, MOST) is None


def test_the_packaged_prompts_share_no_long_run_with_what_they_ask_for() -> None:
    """An answer in the form that a prompt asks for must pass its own check."""
    form = '1. First this.\n2. Then that.\n"A quoted sentence."\nFinal answer: It is so.'
    assert all(prompt_mention(form, prompt, "", MOST) is None for prompt in PROMPTS.values())
