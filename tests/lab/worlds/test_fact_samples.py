"""Samples of the world of facts: where they ask, what they repeat, and what is refused."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.fact_samples import FactDataset, FactMeasure, fact_probes, fact_sample
from megatron_in2.lab.worlds.facts import CONTROL_TOKENS, QUESTION_TOKENS

SEEDS = st.integers(0, 2**32)


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
        ({"tokens": 600}, "tokens=600, 1 joined, row_tokens=512"),
        ({"joined": 2}, "2 joined, row_tokens=512"),
        ({"facts": 3}, "facts=3, questions=0: give both"),
        ({"facts": 90, "questions": 1}, "90 statements and 1 questions take 547"),
        ({"ends": 0.6}, "ends=0.6: must be above 0"),
        ({"facts": 41, "questions": 1, "fillers": "random"}, "facts=41 with fillers=random: at m"),
        ({"repeated": True, "ends": 0.1}, "repeated=true with ends=0.1"),
        ({"copies": 1}, "copies=1: must be from 0 to below 1"),
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


@given(SEEDS)
@settings(max_examples=20)
def test_repeated_evidence_is_what_is_asked_about(seed: int) -> None:
    dataset = FactDataset(1, 512, facts=40, questions=3, repeated=True)
    parts = fact_sample(random.Random(seed), dataset)["parts"]
    context = parts[0]["text"].rpartition(" question")[0]
    for before, answer in zip(parts[::2], parts[1::2], strict=True):
        question = before["text"].split("question of ")[1]
        assert context.count(f"fact of {question} {answer['text']} .") == 2
    assert sum(len(part["text"].split()) for part in parts) + CONTROL_TOKENS == 512


def test_joined_contexts_are_one_sample() -> None:
    dataset = FactDataset(1, 1024, tokens=256, facts=20, questions=2, joined=4)
    parts = fact_sample(random.Random(3), dataset)["parts"]
    assert [part["learn"] for part in parts] == [False, True] * 8
    assert [part["text"].startswith(". ") for part in parts[::2]] == [False, *[True] * 7]
    tokens = sum(len(part["text"].split()) for part in parts) + CONTROL_TOKENS
    assert tokens == 4 * (256 - CONTROL_TOKENS) + 3 + CONTROL_TOKENS <= dataset.sample_tokens


def test_a_share_of_rows_of_repeated_words() -> None:
    dataset = FactDataset(1, 256, tokens=128, facts=8, questions=1, copies=0.25)
    chance = random.Random(4)
    samples = [fact_sample(chance, dataset)["parts"] for _ in range(400)]
    rows = [parts for parts in samples if "question" not in parts[0]["text"].split()[-4:-2]]
    assert 70 < len(rows) < 130


def test_probes_with_random_fillers() -> None:
    measure = FactMeasure("title", fillers="random")
    first = next(iter(fact_probes(random.Random(5), measure)))
    context, _, question = first["prompt"].rpartition(" question of ")
    assert context.count(f"fact of {question.split()[0]} ") == 1
    assert len(first["prompt"].split()) + len(first["completion"].split()) + 2 == 512
