"""Tasks with strategies: asked alike, told apart by the context alone, solved by their steps."""

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.errors import InputError
from megatron_in2.lab.worlds.strategies import (
    KINDS,
    NUMBERS,
    WORDS,
    KindContext,
    final_word,
    make_kind_context,
)
from megatron_in2.lab.worlds.strategy_samples import (
    StrategyDataset,
    StrategyMeasure,
    strategy_probes,
    strategy_sample,
)

SEEDS = st.integers(0, 2**32)
REASONED = StrategyDataset(1, 96, tokens=96, answers="reasoned")


def stated(context: KindContext) -> dict[tuple[str, str], str]:
    """Read the facts of a context's text; each occurs once."""
    words = context.text.split()
    places = [place for place, word in enumerate(words) if word == "fact"]
    found = {(words[at + 2], words[at + 3]): words[at + 4] for at in places}
    assert len(found) == len(places) == 10
    return found


def test_every_word_means_one_thing() -> None:
    assert len(set(WORDS)) == len(WORDS)


@given(SEEDS)
@settings(max_examples=50)
def test_the_answers_follow_from_the_facts(seed: int) -> None:
    context = make_kind_context(random.Random(seed), 80)
    facts = stated(context)
    assert len(context.text.split()) == 80
    asked = {kind: task.question.split()[2:] for kind, task in context.tasks.items()}
    entity, name = asked["stated"]
    assert context.tasks["stated"].answer == facts[entity, name]
    assert not {(entity, "same"), (entity, "pair")} & set(facts)
    entity, name = asked["alias"]
    assert (entity, name) not in facts
    assert context.tasks["alias"].answer == facts[facts[entity, "same"], name]
    entity, name = asked["pair"]
    both = facts[entity, name], facts[facts[entity, "pair"], name]
    assert context.tasks["pair"].answer == max(both, key=NUMBERS.index)
    for task in context.tasks.values():
        assert final_word(task.reasoned) == final_word(task.direct) == task.answer
        *steps, mark, _ = task.reasoned.split()
        assert mark == "answer"
        for at in range(0, len(steps), 3):  # every step is a fact of the context
            assert facts[steps[at], steps[at + 1]] == steps[at + 2]


@pytest.mark.parametrize(
    ("reply", "word"),
    [("answer zuri", "zuri"), ("answer a answer b", "b"), ("zuri", ""), ("answer", ""), ("", "")],
)
def test_the_final_word(reply: str, word: str) -> None:
    assert final_word(reply) == word


def test_samples_of_the_arms_differ_in_nothing_but_prompt_and_answer() -> None:
    direct, kinds = replace(REASONED, answers="direct"), set()
    one, other = random.Random(7), random.Random(7)
    for _ in range(20):
        system, *reasoned = strategy_sample(one, REASONED)["messages"]
        plain = strategy_sample(other, direct)["messages"]
        assert system["content"].split()[0] == "plan"
        kinds.add(system["content"])
        assert plain[0] == reasoned[0]
        assert plain[1]["content"] == " ".join(reasoned[1]["content"].split()[-2:])
        assert sum(len(each["content"].split()) for each in (system, *reasoned)) <= 94
    assert len(kinds) == len(KINDS)


def test_probes_have_their_prompt_or_not() -> None:
    plain, prompted = (
        list(strategy_probes(random.Random(1), StrategyMeasure("title", prompted=prompted)))
        for prompted in (False, True)
    )
    assert [probe["position_id"] for probe in plain] == [0, 1, 2]
    for one, other, name in zip(plain, prompted, ("direct", "follow", "weigh"), strict=True):
        assert other["prompt"] == f"plan {name} {one['prompt']}"
    assert StrategyMeasure("title").judged({}, "Bako same Zuna answer zuri") == "zuri"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"facts": 3, "questions": 1}, "answers=reasoned: tasks have facts of their own"),
        ({"tokens": 70}, "tokens=70: a task takes 79"),
    ],
)
def test_impossible_datasets_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(REASONED, **fields)  # type: ignore[arg-type]
