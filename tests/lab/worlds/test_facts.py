"""The small world: exact lengths, one answer for each question, and facts at their positions."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.lab.worlds.facts import (
    CONTROL_TOKENS,
    FACT_TOKENS,
    QUESTION_TOKENS,
    WORDS,
    copy_parts,
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


@given(SEEDS, st.integers(1, 6))
def test_facts_that_are_stated_twice(seed: int, twice: int) -> None:
    context = make_context(random.Random(seed), 240, 20, twice=twice)
    assert len(context.text.split()) == 240
    assert (len(context.facts), len(context.twice)) == (20, twice)
    for fact in context.facts:
        statement = f"fact of {fact.entity} {fact.attribute} {fact.value} ."
        assert context.text.count(statement) == 1 + (fact in context.twice)


@given(SEEDS)
def test_random_fillers_share_no_entity_and_hard_ones_do(seed: int) -> None:
    entities = {
        fillers: [fact.entity for fact in make_context(random.Random(seed), 448, 40, fillers).facts]
        for fillers in ("hard", "random")
    }
    assert len(set(entities["random"])) == 40
    assert len(set(entities["hard"])) == 14
