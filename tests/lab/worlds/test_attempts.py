"""Attempts: what of a reply is trained on, where it ends, and which questions a sample keeps."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.attempt_samples import (
    AttemptDataset,
    AttemptMeasure,
    attempt_probes,
    attempt_questions,
    attempt_sample,
    sample_of_attempts,
)
from megatron_in2.lab.worlds.attempts import WORDS, Tried, final_answer, verified_parts
from megatron_in2.lab.worlds.facts import CONTROL_TOKENS, Fact

SEEDS = st.integers(0, 2**32)
FACT = Fact("Bako", "home", "zuri", 3)
MADE_UP = AttemptDataset(1, 256, tokens=256, facts=16, questions=4, verification="quote")
DRAWN = replace(MADE_UP, attempts_of="ends", asked=10)


def test_every_word_means_one_thing() -> None:
    assert len(set(WORDS)) == len(WORDS)


@pytest.mark.parametrize(
    ("attempt", "verification", "train_wrong", "reply"),
    [
        ("zuri", "bare", False, [("zuri yes", True)]),
        ("zuri", "quote", True, [("zuri check Bako home zuri yes", True)]),
        ("fada", "bare", False, [("fada", False), ("no zuri", True)]),
        ("fada", "quote", True, [("fada", True), ("check Bako home zuri no zuri", True)]),
    ],
)
def test_a_wrong_attempt_is_masked_unless_it_is_to_be_trained_on(
    attempt: str, verification: str, train_wrong: bool, reply: list[tuple[str, bool]]
) -> None:
    parts = verified_parts("a b .", [Tried(FACT, attempt)], verification, train_wrong)  # type: ignore[arg-type]
    assert parts[0] == {"text": "a b . question of Bako home", "learn": False}
    assert [(part["text"], part["learn"]) for part in parts[1:]] == reply


@pytest.mark.parametrize(
    ("verdict", "final"),
    [
        ("check Bako home zuri yes", "fada"),
        ("check Bako home zuri no zuri", "zuri"),
        ("no zuri . question", "zuri"),
        ("yes no zuri", "fada"),
        ("check no", ""),
        ("", "fada"),
        (". question of Bako", "fada"),
    ],
)
def test_the_final_answer(verdict: str, final: str) -> None:
    assert final_answer("fada", verdict) == final


def test_what_a_measure_judges() -> None:
    own, given_one = AttemptMeasure("title"), AttemptMeasure("title", attempt="wrong")
    assert own.judged({}, "fada no zuri") == "fada"
    assert own.final("fada no zuri") == "zuri"
    assert (own.judged({}, ""), own.final("")) == ("", "")
    assert given_one.judged({"attempt": "fada"}, "no zuri") == "zuri"
    assert given_one.judged({"attempt": "fada"}, "yes") == "fada"
    assert (own.corrects, given_one.corrects) == (True, False)


@given(SEEDS)
@settings(max_examples=20)
def test_made_up_attempts_are_values_of_the_context(seed: int) -> None:
    for wrong in (0.0, 1.0):
        parts = attempt_sample(random.Random(seed), replace(MADE_UP, wrong=wrong))["parts"]
        text = " ".join(part["text"] for part in parts)
        assert len(text.split()) <= 256 - CONTROL_TOKENS
        verdicts = [part["text"].split()[-2:] for part in parts if part["learn"]]
        assert all((verdict[0] == "no") == (wrong == 1) for verdict in verdicts)
        for part in parts[1 :: 3 if wrong else 2]:
            assert f" {part['text'].split()[0]} ." in parts[0]["text"]


@given(SEEDS, st.integers(0, 10))
@settings(max_examples=30)
def test_a_sample_keeps_its_share_of_wrong_attempts(seed: int, failures: int) -> None:
    chance = random.Random(seed)
    probes = attempt_questions(chance, DRAWN)
    assert len(probes) == 10
    replies = [
        "Bako" if number < failures else str(probe["fact"][2])
        for number, probe in enumerate(probes)
    ]
    parts = sample_of_attempts(chance, DRAWN, probes, replies)["parts"]
    masked = [
        part["text"] for part in parts if not part["learn"] and "question" not in part["text"]
    ]
    assert masked == ["Bako"] * max(min(2, failures), 4 - (10 - failures))
    assert sum("question of" in part["text"] for part in parts) == 4
    unmasked = sample_of_attempts(
        random.Random(1), replace(DRAWN, train_wrong=True), probes, replies
    )["parts"]
    assert all(part["learn"] for part in unmasked if "question" not in part["text"])


def test_an_empty_reply_is_no_attempt() -> None:
    probes = attempt_questions(random.Random(1), DRAWN)
    parts = sample_of_attempts(random.Random(1), DRAWN, probes, ["", *["Bako"] * 9])["parts"]
    assert str(probes[0]["fact"][0]) + " " + str(probes[0]["fact"][1]) not in [
        " ".join(part["text"].split()[-2:]) for part in parts
    ]


@given(SEEDS)
@settings(max_examples=10)
def test_given_attempts_end_the_prompt(seed: int) -> None:
    probes = {
        name: list(attempt_probes(random.Random(seed), AttemptMeasure("title", attempt=name)))  # type: ignore[arg-type]
        for name in ("own", "right", "wrong")
    }
    for own, right, wrong in zip(*probes.values(), strict=True):
        assert right["prompt"] == f"{own['prompt']} {own['completion']}"
        assert wrong["prompt"] == f"{own['prompt']} {wrong['attempt']}"
        assert wrong["attempt"] != own["completion"] == wrong["completion"]
        assert f" {wrong['attempt']} ." in own["prompt"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"verification": "none"}, "verification=none: attempts_of, asked and train_wrong"),
        ({"asked": 0}, "attempts_of='ends', asked=0: give both or none"),
        ({"asked": 3}, "asked is from questions=4 to facts=16"),
        ({"wrong": 1.5}, "wrong=1.5: must be from 0 to 1"),
        ({"ends": 0.1}, "copies, repeated, joined and ends are for verification=none only"),
        ({"facts": 36}, "36 facts and 4 questions with attempts do not fit into 256"),
    ],
)
def test_impossible_datasets_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(DRAWN, **fields)  # type: ignore[arg-type]
