"""RULER on files of the user's: the harness' generators hide needles in them and ask about them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks.ruler import niah_utils, qa_utils

from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks import harness_run, ruler
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.suite_run import SuiteRun
from megatron_in2.evaluation.benchmarks.suites import SUITES
from tests.evaluation.benchmarks.conftest import Oracle

GENERATED = {"niah_single_1", "niah_multikey_2", "niah_multikey_3"}
GENERATED |= {"ruler_vt", "ruler_cwe", "ruler_fwe"}


def _few(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Return the harness' function, for 3 samples instead of 500."""
    return lambda *rest, **options: generate(*rest, **{**options, "num_samples": 3})


def test_what_needs_files() -> None:
    assert set(ruler.NEEDS) == set(SUITES["ruler"].tasks) - GENERATED


def test_needles_in_the_users_essays_and_questions_of_the_users_files(
    tiny_model: Path, essays: Path, squad: Path, hotpotqa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = HarnessConfig(tiny_model, ["ruler"], None, essays, squad, hotpotqa)
    sources = ruler.read_sources(config)
    assert sources.missing == {}
    words = sources.found["essays"]
    assert words[:4] == ["On", "day", "0", "the"]
    assert words.index("second") > 3000  # files by name
    assert len(sources.found["squad"][0]) == 520  # those with answers
    for module in (niah_utils, qa_utils):
        monkeypatch.setattr(module, "generate_samples", _few(module.generate_samples))
    options = {"pretrained": str(tiny_model), "max_seq_lengths": [4096]}
    fetched = niah_utils.get_haystack

    made = ruler.generator("niah_multivalue", sources)(**options)["test"]
    assert len(made) == 3
    for row in made:
        assert "baker of street" in row["input"]
        assert 3000 < row["length"] <= 4096
        assert len(row["outputs"]) == 4
        assert all(number in row["input"] for number in row["outputs"])
        # Needles are between sentences: none begins inside one.
        for part in row["input"].split("One of the special magic")[1:-1]:
            assert part.rstrip().endswith(".")
    assert niah_utils.get_haystack is fetched

    row = ruler.generator("ruler_qa_squad", sources)(**options)["test"][0]
    assert row["outputs"] == ["Blue0"]
    assert "called Blue0." in row["input"]
    row = ruler.generator("ruler_qa_hotpot", sources)(**options)["test"][1]
    assert row["outputs"] == ["Town1"]
    assert "Ann 1 was born in Town1." in row["input"]
    assert ruler.generator("ruler_vt", sources) is None


def test_files_that_cannot_be_used(
    tiny_model: Path,
    tmp_path: Path,
    essays: Path,
    squad: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ruler, "_fetch", _no_network)

    def read(**files: Path) -> ruler.RulerSources:
        return ruler.read_sources(HarnessConfig(tiny_model, ["ruler"], **files))

    with pytest.raises(InputError, match=r"--essays .*none does not exist"):
        read(essays=tmp_path / "none")
    with pytest.raises(InputError, match=r"the folder holds no \.txt file"):
        read(essays=tmp_path)
    with pytest.raises(InputError, match="is for RULER: add --tasks ruler"):
        HarnessConfig(tiny_model, ["csqa"], essays=essays)
    with pytest.raises(InputError, match=r"is not of the form of hotpot_dev.*TypeError"):
        read(hotpotqa=squad)
    with pytest.raises(InputError, match=r"is not of the form of dev-v2\.0\.json"):
        broken = tmp_path / "s.json"
        broken.write_text('{"data": [{"paragraphs": [{"context": "x", "qas": [{}]}]}]}')
        read(squad=broken)
    few = json.loads(squad.read_text())
    few["data"] = few["data"][:5]
    broken.write_text(json.dumps(few))
    with pytest.raises(InputError, match="holds 20 questions with answers: RULER asks 500"):
        read(squad=broken)
    lines = tmp_path / "e.jsonl"
    lines.write_text('{"text": "One. Two."}\n{"text": 3}\n')
    with pytest.raises(InputError, match=r"e\.jsonl:2: field 'text' must be a text"):
        read(essays=lines)
    lines.write_text('{"text": "One. Two."}\n{"text": "Three."}\n')
    sources = read(essays=lines)
    assert sources.found["essays"] == ["One.", "Two.", "Three."]
    with pytest.raises(InputError, match="the essays hold 3 tokens, a prompt of RULER 4,096"):
        ruler.require_words(sources, str.split, 4096)  # type: ignore[arg-type]


def _no_network(*rest: object, **options: object) -> None:
    raise ConnectionError("no network")


def test_what_is_missing_is_said_with_what_to_give(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ruler, "_fetch", _no_network)
    monkeypatch.setattr(SuiteRun, "_score", lambda *rest: _no_network())
    monkeypatch.setattr("megatron_in2.evaluation.benchmarks.suite_run.load_tasks", lambda *_: [])
    run = SuiteRun(HarnessConfig(tiny_model, ["ruler"]), Oracle(tiny_model, lambda row: ""))
    run.run("ruler")
    assert run.scores == {}
    reasons = {name.partition("/")[2]: reason for name, reason in run.not_run.items()}
    assert reasons.pop("") == "no mean: 13 of its 13 tasks were not run"
    assert set(reasons) == set(ruler.NEEDS)
    assert "give --essays FILE or DIR, any prose (ConnectionError" in reasons["niah_single_2"]
    assert "give --squad dev-v2.0.json" in reasons["ruler_qa_squad"]
    assert "give --hotpotqa hotpot_dev_distractor_v1.json" in reasons["ruler_qa_hotpot"]
    said = capsys.readouterr().err
    assert "niah_multivalue, niah_multiquery will not run: it needs essays" in said


def test_a_bad_file_is_known_before_any_task_has_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are written at the end: those of hours would be lost."""
    begun: list[str] = []
    monkeypatch.setattr(ruler, "_fetch", _no_network)
    monkeypatch.setattr(harness_run, "_load_model", lambda _: Oracle(tiny_model, str))
    monkeypatch.setattr(SuiteRun, "_run_at", lambda run, name, *rest: begun.append(name))
    broken = tmp_path / "s.json"
    broken.write_text("{}")
    config = HarnessConfig(tiny_model, ["graphwalks", "ruler"], squad=broken)
    with pytest.raises(InputError, match=r"is not of the form of dev-v2\.0\.json"):
        harness_run.run_benchmarks(config)
    assert begun == []


@pytest.mark.slow
def test_all_thirteen_tasks_run_on_files_without_a_network(
    tiny_model: Path, essays: Path, squad: Path, hotpotqa: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("requests.get", _no_network)
    monkeypatch.setattr("datasets.load_dataset", _no_network)
    files = {"essays": essays, "squad": squad, "hotpotqa": hotpotqa}
    config = HarnessConfig(tiny_model, ["ruler"], **files, lengths=[8192], limit=2)
    # It answers the first sample of each task, and not the second: both must show in the score.
    oracle = Oracle(tiny_model, lambda row: "" if row["index"] else " ".join(row["outputs"]))
    run = SuiteRun(config, oracle)
    run.run("ruler")
    assert run.not_run == {}
    names = {f"ruler_8192/{task}" for task in SUITES["ruler"].tasks}
    assert set(run.scores) == {*names, "ruler_8192"}
    assert {score.score for score in run.scores.values()} == {50.0}
    assert run.scores["ruler_8192"].samples == 26
    assert sum("baker of street" in prompt for prompt in oracle.prompts) == 10  # 5 tasks
