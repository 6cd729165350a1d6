"""Settings are checked before any work; the shipped configurations are the stated ones."""

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.commands.parser import CommandParser
from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    InstructionsConfig,
    MixtureConfig,
    OpenAIConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.llm.prompts import FIELDS, fill, load_prompts
from megatron_in2.synthesis.llm.spending import load_price
from tests.conftest import ROOT

GOOD = SynthesisConfig(corpus=CorpusConfig(source="python"))


def test_the_paper_s_mixture() -> None:
    options = CommandParser("x", SynthesisConfig).read(
        ["--config", str(ROOT / "configs" / "in2_film.yaml")]
    )
    counts = options.mixture.counts()
    assert counts == {
        "fine_grained": 1_100_000,
        "integration": 300_000,
        "short": 150_000,
        "instruction": 200_000,
    }
    assert sum(counts.values()) == 1_750_000
    assert (options.composition.min_tokens, options.composition.max_tokens) == (4096, 32768)
    assert load_price(options.openai.model, None, batch=True).input == 5.0


def test_shares_become_counts() -> None:
    third = 1 / 3
    counts = MixtureConfig(
        total=100, fine_grained=third, integration=third, short=third, instruction=0
    ).counts()
    assert sum(counts.values()) == 100
    assert set(counts.values()) == {34, 33, 0}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"writer": "gpt"}, "writer='gpt': use extractive, openai or openai-batch"),
        ({"mixture": MixtureConfig(total=10)}, "shares add up to"),
        ({"mixture": MixtureConfig(short=0.5)}, r"mixture\.short=0\.5"),
        ({"mixture": MixtureConfig(short=-1)}, r"mixture\.short=-1"),
        ({"composition": CompositionConfig(fillers="soft")}, "use random or hard"),
        ({"composition": CompositionConfig(hard_share=2)}, "hard_share=2: must be from 0 to 1"),
        ({"openai": OpenAIConfig(concurrency=0)}, "concurrency=0: must be 1 or more"),
        ({"openai": OpenAIConfig(tokens_per_minute=-1)}, "must not be < 0"),
        (
            {
                "mixture": MixtureConfig(instruction=1),
                "instructions": InstructionsConfig(source="files"),
            },
            r"instructions\.paths is empty",
        ),
    ],
)
def test_bad_settings_are_named(changes: dict, complaint: str) -> None:
    GOOD.validate()
    with pytest.raises(InputError, match=complaint):
        replace(GOOD, **changes).validate()


def test_prompts_are_replaced_one_by_one(tmp_path: Path) -> None:
    packaged = load_prompts(None)
    assert all(
        field in getattr(packaged, name) for name, fields in FIELDS.items() for field in fields
    )
    (tmp_path / "verify.txt").write_text("{context}|{question}|{answer}")
    mine = load_prompts(tmp_path)
    assert mine.verify == "{context}|{question}|{answer}"
    assert mine.integration == packaged.integration
    (tmp_path / "verify.txt").write_text("{context}|{question}")
    with pytest.raises(InputError, match=r"verify\.txt: the prompt lacks its field \{answer\}"):
        load_prompts(tmp_path)
    with pytest.raises(InputError, match="no directory"):
        load_prompts(tmp_path / "absent")


def test_values_stay_as_they_are() -> None:
    assert fill("{a}-{b}", a="{b} \\1", b="{a}") == "{b} \\1-{a}"
    assert fill('{"question": "{q}"}', q="?") == '{"question": "?"}'


def test_prices_come_from_a_dated_file(tmp_path: Path) -> None:
    price = load_price("gpt-4o-mini", None, batch=False)
    assert price.cost(1_000_000, 1_000_000) == pytest.approx(0.75)
    assert price.as_of.year >= 2025
    with pytest.raises(InputError, match=r"'x' has no price in .*prices\.yaml"):
        load_price("x", None, batch=False)
    (tmp_path / "p.yaml").write_text("models: 5")
    with pytest.raises(InputError, match="is no price file"):
        load_price("x", tmp_path / "p.yaml", batch=False)
    (tmp_path / "p.yaml").write_text(
        "as_of: 2026-01-01\nbatch_factor: 0.5\nmodels:\n  mine: {input: 2, output: 4}\n"
    )
    assert load_price("mine", tmp_path / "p.yaml", batch=True).cost(1_000_000, 0) == 1.0
