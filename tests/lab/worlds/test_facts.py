"""The small world: exact lengths, one answer for each question, and facts at their positions."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.facts import (
    CONTROL_TOKENS,
    FACT_TOKENS,
    QUESTION_TOKENS,
    WORDS,
    FactDataset,
    copy_parts,
    fact_sample,
    make_context,
    question_parts,
)

SEEDS = st.integers(0, 2**32)


def test_every_word_means_one_thing() -> None:
    assert len(set(WORDS)) == len(WORDS)
    assert not any(" " in word for word in WORDS)


@given(SEEDS, st.integers(2, 40), st.integers(0, 300))
def test_a_context_has_its_length_and_facts_have_their_starts(
    seed: int, facts: int, rest: int
) -> None:
    tokens = facts * FACT_TOKENS + rest
    context = make_context(random.Random(seed), tokens, facts)
    words = context.text.split()
    assert len(words) == context.tokens == tokens
    assert len(context.facts) == facts
    assert len({(fact.attribute, fact.entity) for fact in context.facts}) == facts
    for fact in context.facts:
        sentence = words[fact.start : fact.start + FACT_TOKENS]
        assert sentence == ["fact", "of", fact.entity, fact.attribute, fact.value, "."]


@given(SEEDS, st.floats(0.02, 0.3))
def test_facts_near_the_ends(seed: int, share: float) -> None:
    context = make_context(random.Random(seed), 448, 40)
    near = context.near_the_ends(share)
    for fact in context.facts:
        place = fact.start / 448
        assert (fact in near) == (place < share or place >= 1 - share)
    assert context.near_the_ends(0.5) == list(context.facts)


@given(SEEDS)
def test_the_nearest_fact(seed: int) -> None:
    context = make_context(random.Random(seed), 448, 40)
    nearest = context.nearest(0.5)
    assert all(abs(nearest.start - 224) <= abs(fact.start - 224) for fact in context.facts)


@given(SEEDS)
def test_only_values_are_trained_on(seed: int) -> None:
    context = make_context(random.Random(seed), 60, 6)
    parts = question_parts(context, context.facts[:3])
    assert [part["learn"] for part in parts] == [False, True] * 3
    assert [part["text"] for part in parts[1::2]] == [fact.value for fact in context.facts[:3]]
    tokens = sum(len(str(part["text"]).split()) for part in parts)
    assert tokens == 60 + 3 * QUESTION_TOKENS - 1
    assert parts[0]["text"] == f"{context.text} {context.facts[0].question}"


@given(SEEDS, st.integers(18, 200))
def test_a_repeated_row_is_trained_on_from_its_second_period(seed: int, tokens: int) -> None:
    first, rest = copy_parts(random.Random(seed), tokens)
    pattern, row = str(first["text"]).split(), f"{first['text']} {rest['text']}".split()
    assert (first["learn"], rest["learn"]) == (False, True)
    assert len(row) == tokens - CONTROL_TOKENS
    assert all(word == pattern[place % len(pattern)] for place, word in enumerate(row))


def test_facts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="12 tokens"):
        make_context(random.Random(0), 11, 2)


@given(SEEDS)
@settings(max_examples=20)
def test_the_dose_decides_where_questions_ask_and_nothing_else(seed: int) -> None:
    places = []
    for middle in (0.0, 1.0):
        dataset = FactDataset(1, 512, tokens=512, facts=40, questions=3, ends=0.05, middle=middle)
        parts = fact_sample(random.Random(seed), dataset)["parts"]
        asked = [part["text"].split("question of ")[1] for part in parts[::2]]
        assert len(asked) == len(set(asked)) == 3
        context = parts[0]["text"].rpartition(" question")[0]
        at = [context.index(f"fact of {question}") for question in asked]
        tokens = len(context.split())
        places.append([len(context[:place].split()) / tokens for place in at])
        assert tokens + 3 * QUESTION_TOKENS - 1 + CONTROL_TOKENS == 512
    assert all(place < 0.05 or place >= 0.95 for place in places[0])
    assert all(0.05 <= place < 0.95 for place in places[1])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 0}, "samples=0: must be 1 or more"),
        ({"tokens": 600}, "tokens=600, row_tokens=512"),
        ({"facts": 3}, "facts=3, questions=0: give both"),
        ({"facts": 90, "questions": 1}, "tokens=512: 90 facts and 1 questions take 547"),
        ({"ends": 0.6}, "ends=0.6: must be above 0"),
        ({"middle": 0.5}, "middle=0.5 with ends=0.5"),
    ],
)
def test_impossible_datasets_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        FactDataset(**{"samples": 1, "row_tokens": 512, **fields})


def test_a_dataset_that_no_context_can_serve_is_refused() -> None:
    dataset = FactDataset(1, 64, tokens=64, facts=4, questions=4, ends=0.01, middle=0.5)
    with pytest.raises(InputError, match=r"has enough facts to ask 4 questions with ends=0\.01"):
        fact_sample(random.Random(1), dataset)
