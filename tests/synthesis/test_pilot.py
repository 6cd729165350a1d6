"""A pilot shows questions and prices; a run whose replies are useless stops and says why."""

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.commands.synthesize_in2 import main
from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    FilterConfig,
    MixtureConfig,
    OpenAIConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.pilot import run_pilot
from megatron_in2.synthesis.pipeline import RunOptions, synthesize
from tests.synthesis.conftest import ServerProcess

pytestmark = pytest.mark.usefixtures("api_key")
NEVER_ASKED = ("document has one segment", "evidence too long")
PRICE = (300 * 0.15 + 50 * 0.60) / 1e6  # of one request


def _config(server: ServerProcess, corpus: Path, prompts: str = "paper") -> SynthesisConfig:
    return SynthesisConfig(
        writer="openai",
        corpus=CorpusConfig(paths=[str(corpus)]),
        segments=SegmentConfig(min_tokens=48),
        composition=CompositionConfig(min_tokens=256, max_tokens=2000),
        mixture=MixtureConfig(fine_grained=180, integration=20, short=20),
        openai=OpenAIConfig(
            model="gpt-4o-mini", base_url=server.url, concurrency=16, prompts=prompts
        ),
    )


def test_a_pilot_shows_questions_reasons_and_prices(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    server, output = start_server(bad=0.3), tmp_path / "x.jsonl"
    config = _config(server, small_corpus)
    pilot = run_pilot(config, output, RunOptions(), 50)
    assert [kind.kind for kind in pilot.kinds] == ["fine_grained", "integration"]
    assert [kind.asked for kind in pilot.kinds] == [45, 5]
    assert server.stats()["tries"] == 50
    for kind in pilot.kinds:
        assert kind.cost == pytest.approx(kind.asked * PRICE)
        asked_and_dropped = {n: c for n, c in kind.dropped.items() if n not in NEVER_ASKED}
        assert kind.accepted + sum(asked_and_dropped.values()) == kind.asked
        assert kind.accepted >= len(kind.samples) > 0
        assert all(f"<{s.evidence.split()[0]} " in s.question for s in kind.samples)
    fine, integration = (kind.asked * PRICE / kind.accepted for kind in pilot.kinds)
    assert pilot.prices == pytest.approx(
        {"fine_grained": 180 * fine, "integration": 20 * integration,
         "short": 18 * fine + 2 * integration}
    )  # fmt: skip
    assert pilot.kinds[0].dropped["malformed reply"] > 5
    rejects = (tmp_path / "x.jsonl.rejects.jsonl").read_text().splitlines()
    assert any("about the weather" in json.loads(line).get("reply", "") for line in rejects)
    assert not output.exists()
    # The run uses the pilot's answers: not one of them is asked for, or paid for, again.
    assert run_pilot(config, output, RunOptions(), 50) == pilot
    assert server.stats()["tries"] == 50
    synthesize(config, output)
    assert server.stats()["billed"] == server.stats()["distinct"]
    dropped = [json.loads(line)["reason"] for line in rejects]
    assert sum("malformed reply" in reason for reason in dropped) > 5


def test_the_command_prints_a_pilot(
    tmp_path: Path, small_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        f"corpus: {{paths: ['{small_corpus}']}}\nsegments: {{min_tokens: 48}}\n"
        "composition: {min_tokens: 256, max_tokens: 2000}\n"
        "mixture: {fine_grained: 100, integration: 10, short: 10}\n"
    )
    common = ["--config", str(path), "--output", str(tmp_path / "x.jsonl"), "--pilot"]
    assert main([*common, "40"]) == 0
    printed = capsys.readouterr().out
    assert "of 36 questions accepted" in printed
    assert "fine_grained: " not in printed
    assert printed.count("QUESTION: ") == printed.count("ANSWER: ") > 5
    with pytest.raises(InputError, match="--pilot 0: must be 1 or more"):
        main([*common, "0"])
    with pytest.raises(InputError, match="give one of them"):
        main([*common, "5", "--dry-run"])


def test_a_run_of_useless_replies_stops_and_names_the_prompt(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    server, output = start_server(bad=0.8), tmp_path / "x.jsonl"
    config = _config(server, small_corpus, "strict")
    with pytest.raises(InputError, match=r"of the last 200 replies were dropped .*malformed reply"):
        synthesize(config, output)
    asked = server.stats()["billed"]
    assert 200 <= asked <= 200 + 3 * config.openai.concurrency
    assert not output.exists()
    rejects = (tmp_path / "x.jsonl.rejects.jsonl").read_text().splitlines()
    assert sum("malformed reply" in line for line in rejects) > 100
    with contextlib.closing(Journal(tmp_path / "x.jsonl.journal.sqlite")) as journal:
        assert journal.summary().answers == asked
    calm = replace(config, filters=FilterConfig(stop_share=1.0))
    with contextlib.suppress(InputError):  # the corpus may be too small for so few good replies
        synthesize(calm, output)
    assert server.stats()["billed"] == server.stats()["distinct"] > asked


def test_integration_without_quotes_is_accepted_where_none_are_asked_for(
    tmp_path: Path, small_corpus: Path, start_server
) -> None:
    """The paper's prompts ask for none; the strict ones do, and what lacks them is dropped."""
    server = start_server(no_quotes=True)
    for prompts, accepted in (("paper", True), ("strict", False)):
        config = _config(server, small_corpus, prompts)
        pilot = run_pilot(config, tmp_path / f"{prompts}.jsonl", RunOptions(), 100)
        assert (pilot.kinds[1].accepted > 0) is accepted
        lacking = pilot.kinds[1].dropped["evidence lacks what the answer cites"]
        assert (lacking > 0) is not accepted
