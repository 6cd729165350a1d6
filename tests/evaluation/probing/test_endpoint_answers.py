"""Answers through a real HTTP server: an oracle, a fake lost in the middle, and failures."""

import json
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.endpoint_answers import (
    EndpointAnswerer,
    EndpointConfig,
    user_message,
)
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.evaluation.probing.score import Grouping, ProbeReport, score_predictions
from tests.conftest import RunTool, assert_refused
from tests.evaluation.conftest import Serve


def _answerer(url: str, api: str = "completions") -> EndpointAnswerer:
    return EndpointAnswerer(EndpointConfig(url, "fake", api=api, retries=0), max_new_tokens=128)


def _report(url: str, probes: Path, output: Path, api: str) -> ProbeReport:
    generate_predictions(_answerer(url, api), probes, output)
    return score_predictions(probes, output, Grouping(bins=10))


@pytest.mark.parametrize("task", ["document", "code", "database"])
@pytest.mark.parametrize("api", ["completions", "chat"])
def test_an_oracle_is_right_everywhere(
    probes: Path, tmp_path: Path, serve: Serve, task: str, api: str
) -> None:
    report = _report(serve(0.5), probes / f"{task}.jsonl", tmp_path / "x.jsonl", api)
    assert report.average == 1.0
    assert report.gap == 0.0
    assert (report.probes, report.nulls) == (120, 0)


@pytest.mark.parametrize("task", ["document", "code", "database"])
def test_who_knows_only_the_ends_gives_a_u(
    probes: Path, tmp_path: Path, serve: Serve, task: str
) -> None:
    report = _report(serve(0.2), probes / f"{task}.jsonl", tmp_path / "x.jsonl", "completions")
    accuracies = [depth.accuracy for depth in report.depths]
    assert accuracies == [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]
    assert report.gap == 1.0


def test_answers_continue_after_an_endpoint_has_failed(
    probes: Path, tmp_path: Path, serve: Serve
) -> None:
    asked, output = probes / "document.jsonl", tmp_path / "x.jsonl"
    failing = _answerer(serve(0.5, fail_after=50))
    with pytest.raises(InputError, match=r"document\.jsonl:\d+: http.* failed: .*out of order"):
        generate_predictions(failing, asked, output)
    kept = output.read_text().splitlines()
    assert 40 <= len(kept) <= 50
    resumed = _answerer(serve(0.5))
    resumed.identity = failing.identity  # the same endpoint, at another port
    assert generate_predictions(resumed, asked, output) == 120
    assert output.read_text().splitlines()[: len(kept)] == kept
    assert score_predictions(asked, output, Grouping(bins=4)).average == 1.0
    with pytest.raises(InputError, match="predictions of another run"):
        generate_predictions(_answerer(serve(0.2)), asked, output)


def test_a_refused_answer_is_a_null_prediction(probes: Path, tmp_path: Path, serve: Serve) -> None:
    lines = (probes / "code.jsonl").read_text().splitlines()[:4]
    asked, output = tmp_path / "asked.jsonl", tmp_path / "x.jsonl"
    lines[1] = lines[1].replace("In above context", "REFUSE above context")
    asked.write_text("\n".join(lines))
    generate_predictions(_answerer(serve(0.5), "chat"), asked, output)
    predictions = [json.loads(line)["samples"] for line in output.read_text().splitlines()]
    assert predictions[1] == [None]
    report = score_predictions(asked, output, Grouping())
    assert (report.probes, report.nulls, report.average) == (3, 1, 1.0)


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"retries": -1}])
def test_bad_numbers(wrong: dict[str, int]) -> None:
    with pytest.raises(InputError, match="give 1 or more"):
        EndpointConfig("http://127.0.0.1:9/v1", "fake", **wrong)


def test_the_command(probes: Path, tmp_path: Path, serve: Serve, run_here: RunTool) -> None:
    output = tmp_path / "predictions.jsonl"
    generate = ("generate", "--probes", probes / "code.jsonl", "--output", output)
    endpoint = ("--endpoint", serve(0.5), "--endpoint-model", "fake")
    result = run_here("probe", *generate, *endpoint, "--api", "chat")
    assert result.returncode == 0, result.stderr
    assert "120 predictions" in result.stdout
    assert_refused(run_here("probe", *generate), "either --model, or --endpoint")
    output.unlink()
    nobody = ("--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "fake")
    assert_refused(
        run_here("probe", *generate, *nobody, "--retries", 0), "code.jsonl:1", "127.0.0.1:9"
    )


def test_what_a_chat_api_is_sent() -> None:
    published = {"prompt": "[INST] Why? [/INST]\nThe answer is"}
    assert user_message("x:1", published) == "Why?\nThe answer is"
    assert user_message("x:1", {"prompt": "no marks"}) == "no marks"
    assert user_message("x:1", {"prompt": "<u>[INST] a [/INST]</u>", "user": [3, 19]}) == (
        "[INST] a [/INST]"
    )
    for wrong in ([0], [0, 99], [-1, 2], "x", None):
        with pytest.raises(InputError, match="x:1: field 'user' must be"):
            user_message("x:1", {"prompt": "abc", "user": wrong})
