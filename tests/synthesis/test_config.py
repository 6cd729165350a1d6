"""Settings are checked before any work; the shipped configurations are the stated ones."""

import math
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
    SegmentConfig,
    SynthesisConfig,
    short_questions,
)
from megatron_in2.synthesis.llm.prompts import (
    FIELDS,
    SETS,
    fill,
    load_prompts,
    version_1_prompts,
)
from megatron_in2.synthesis.llm.spending import Usage, load_price
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
        "multi_document": 0,
        "short": 150_000,
        "instruction": 200_000,
    }
    assert sum(counts.values()) == 1_750_000
    assert (options.segments.min_tokens, options.segments.max_tokens) == (128, 0)
    short = {"fine_grained": 117_857, "integration": 32_143, "multi_document": 0}
    assert short_questions(counts) == short
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
            {"openai": OpenAIConfig(temperature=math.nan)},
            r"openai\.temperature=nan: must be a finite",
        ),
        (
            {"openai": OpenAIConfig(extra_body={"top_p": [1.0, math.nan]})},
            r"openai\.extra_body\.top_p=nan: must be a finite",
        ),
        ({"openai": OpenAIConfig(temperature=-1.0)}, r"openai\.temperature=-1.0: must not be < 0"),
        ({"openai": OpenAIConfig(timeout_seconds=0)}, r"timeout_seconds=0: must be more than 0"),
        (
            {"composition": CompositionConfig(hard_share=math.nan)},
            "hard_share=nan: must be a finite",
        ),
        ({"mixture": MixtureConfig(short=math.inf)}, r"mixture\.short=inf: must be a finite"),
        ({"mixture": MixtureConfig(total=-5)}, r"mixture"),
        ({"mixture": MixtureConfig(0, 0, 0, 0, 0)}, "all kinds are 0"),
        (
            {"segments": SegmentConfig(128, 200)},
            r"segments\.max_tokens=200: must be at least twice segments\.min_tokens=128",
        ),
        ({"seed": -1}, "seed=-1: must not be < 0"),
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


@pytest.mark.parametrize("name", SETS)
def test_packaged_prompts_hold_their_fields(name: str) -> None:
    prompts = load_prompts(name)
    for each, names in FIELDS.items():
        assert all(field in prompts.text(each) for field in names)
        # Instructions first, what changes last, so that a server's prompt cache serves them.
        last = prompts.text(each).rstrip().removesuffix("### Question ###:").rstrip()
        assert last.endswith(names[-1]) or last.endswith(names[0])


def test_prompt_sets_say_what_they_ask_for() -> None:
    strict, paper = load_prompts("strict"), load_prompts("paper")
    assert strict.asks_for_json("fine_grained")
    assert strict.asks_for_quotes("integration")
    assert not strict.asks_for_quotes("fine_grained")
    for name in ("fine_grained", "integration"):
        assert not paper.asks_for_json(name)
        assert not paper.asks_for_quotes(name)
    assert paper.verify == strict.verify
    assert version_1_prompts("strict").fine_grained != strict.fine_grained


def test_prompts_are_replaced_one_by_one(tmp_path: Path) -> None:
    packaged = load_prompts("strict")
    with pytest.raises(InputError, match=r"holds none of fine_grained\.txt"):
        load_prompts(str(tmp_path))
    (tmp_path / "verify.txt").write_text("{context}|{question}|{answer}")
    mine = load_prompts(str(tmp_path))
    assert mine.verify == "{context}|{question}|{answer}"
    assert mine.integration == packaged.integration
    (tmp_path / "verify.txt").write_text("{context}|{question}")
    with pytest.raises(InputError, match=r"verify\.txt: the prompt lacks its field \{answer\}"):
        load_prompts(str(tmp_path))
    with pytest.raises(InputError, match="use strict, paper or a directory"):
        load_prompts(str(tmp_path / "absent"))


def test_values_stay_as_they_are() -> None:
    assert fill("{a}-{b}", a="{b} \\1", b="{a}") == "{b} \\1-{a}"
    assert fill('{"question": "{q}"}', q="?") == '{"question": "?"}'


def test_prices_come_from_a_dated_file(tmp_path: Path) -> None:
    price = load_price("gpt-4o-mini", None, batch=False)
    assert price.cost(Usage(1_000_000, 1_000_000)) == pytest.approx(0.75)
    assert price.cost(Usage(1_000_000, 0, 1_000_000)) == pytest.approx(0.075)
    assert price.as_of is not None
    assert price.as_of.year >= 2025
    with pytest.raises(InputError, match=r"'x' has no price in .*prices\.yaml"):
        load_price("x", None, batch=False)
    (tmp_path / "p.yaml").write_text("models: 5")
    with pytest.raises(InputError, match="is no price file"):
        load_price("x", tmp_path / "p.yaml", batch=False)
    (tmp_path / "p.yaml").write_text(
        "as_of: 2026-01-01\nbatch_factor: 0.5\nmodels:\n  mine: {input: 2, output: 4}\n"
    )
    assert load_price("mine", tmp_path / "p.yaml", batch=True).cost(Usage(1_000_000, 0)) == 1.0
    assert load_price("mine", tmp_path / "p.yaml", batch=False).cached_input == 2.0
    (tmp_path / "p.yaml").write_text(
        "as_of: 2026-01-01\nbatch_factor: 0.5\nmodels:\n  mine: {input: -2, output: 4}\n"
    )
    with pytest.raises(InputError, match="prices must be numbers from 0"):
        load_price("mine", tmp_path / "p.yaml", batch=False)


@pytest.mark.parametrize(
    ("base_url", "is_own"),
    [
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("http://10.1.2.3/v1", True),
        ("http://node17:8000/v1", True),
        ("http://vllm.cluster.local/v1", True),
        ("https://api.openai.com/v1", False),
        ("https://8.8.8.8/v1", False),
        (None, False),
    ],
)
def test_a_server_of_ones_own_needs_no_price(base_url: str | None, is_own: bool) -> None:
    if is_own:
        price = load_price("qwen3-8b", None, batch=False, base_url=base_url)
        assert price.cost(Usage(10**6, 10**6)) == 0.0
        assert load_price("gpt-4o", None, batch=False, base_url=base_url).input == 2.5
    else:
        with pytest.raises(InputError, match="has no price"):
            load_price("qwen3-8b", None, batch=False, base_url=base_url)
