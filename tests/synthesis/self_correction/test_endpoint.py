"""Attempts from an endpoint, through the command: journalled, resumed, never asked twice."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.files import read_json, read_json_lines
from tests.conftest import RunTool, assert_refused
from tests.synthesis.conftest import chat_reply, serve_chat


class _Model:
    """Attempts, verdicts and corrections about numbers; 401 after ``limit`` requests."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.limit = 1000
        self.url = ""

    def reply(self, payload: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.asked.append(payload)
        content = _says(payload, payload["messages"][-1]["content"])
        if len(self.asked) > self.limit:
            return 401, {"error": "no"}
        return 200, chat_reply(len(self.asked), content, 9, 1)


def _says(payload: dict[str, Any], prompt: str) -> str:
    number = int(prompt.split("number ")[1].split("?")[0])
    if prompt.startswith("Compare an answer"):
        attempt = prompt.rpartition("Answer: ")[2].strip()
        return json.dumps({"right": attempt == str(number)}) if number else "I cannot say."
    if prompt.startswith("Somebody answered"):
        assert prompt.endswith("Passage:\nNumbers.\n"), prompt
        return json.dumps({"correction": f"I counted {number} wrongly."}) if number > 1 else ""
    return f"{number}" if (number + payload["seed"]) % 2 else f"{number + 1}"


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Model]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    served = _Model()
    with serve_chat(served.reply) as served.url:
        yield served


def test_attempts_of_an_endpoint(run_here: RunTool, model: _Model, tmp_path: Path) -> None:
    samples, output = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    records = [
        {"id": f"s{n}", "kind": "short", "context": "Numbers.", "question": f"Say number {n}?",
         "answer": str(n)}
        for n in range(10)
    ]  # fmt: skip
    records.append({"id": "p", "parts": [{"text": "Q", "learn": False},
                                         {"text": "1", "learn": True}]})  # fmt: skip
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [
        *("synthesize_in2", "self-correction", "--base-url", model.url, "--served-model", "m"),
        *("--samples", samples, "--output", output, "--judge", "number", "--tries", "2"),
        *("--concurrency", "2", "--plain-share", "0"),
    ]
    model.limit = 7
    assert_refused(run_here(*command), "HTTP 401")
    model.limit = 1000
    result = run_here(*command)
    assert result.returncode == 0, result.stderr
    assert "50.0% right" in result.stdout
    assert len({json.dumps(each, sort_keys=True) for each in model.asked}) == 20
    answered = [record for _, record in read_json_lines(output)]
    assert [record["kind"] for record in answered].count("short_corrected") == 5
    asked = model.asked[0]
    assert asked["messages"][0]["content"].startswith("Below is a context and an instruction.")
    assert (asked["temperature"], asked["max_tokens"]) == (0.8, 128)
    rejects = [each for _, each in read_json_lines(tmp_path / "y.jsonl.rejects.jsonl")]
    assert [each["reason"] for each in rejects] == [
        "a sample of parts has no messages for an endpoint"
    ]
    assert read_json(tmp_path / "y.jsonl.report.json")["accuracy"] == 0.5
    before = len(model.asked)
    for name in ("y.jsonl", "y.jsonl.attempts.jsonl"):  # the journal has all answers
        (tmp_path / name).unlink()
    assert run_here(*command).returncode == 0
    assert len(model.asked) == before
    assert [record for _, record in read_json_lines(output)] == answered


def test_a_teacher_judges_and_explains(run_here: RunTool, model: _Model, tmp_path: Path) -> None:
    samples, output = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    records = [
        {"id": f"s{n}", "kind": "short", "context": "Numbers. More.", "evidence": [[0, 8]],
         "question": f"Say number {n}?", "answer": str(n)}
        for n in range(6)
    ]  # fmt: skip
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [
        *("synthesize_in2", "self-correction", "--base-url", model.url, "--served-model", "m"),
        *("--samples", samples, "--output", output, "--judge", "model", "--tries", "2"),
        *("--plain-share", "0", "--wrong-share", "1", "--correct-by", "writer"),
    ]
    assert_refused(run_here(*command), "give --teacher-model")
    command += ["--teacher-url", model.url, "--teacher-model", "teacher"]
    result = run_here(*command)
    assert result.returncode == 0, result.stderr
    answered = [record for _, record in read_json_lines(output)]
    assert [record["id"] for record in answered] == ["s2", "s3", "s4", "s5"]
    for n, record in enumerate(answered, start=2):
        assert record["answer"].startswith(f"I counted {n} wrongly. {n} ")
        assert record["attempt"][0]["text"] == str(n + 1)
    report = read_json(tmp_path / "y.jsonl.report.json")
    assert report["accuracy"] == 0.5
    assert report["unusable_attempts"]["the judge gave no verdict"] == 2
    assert report["dropped"] == {"no usable attempt": 1, "writer gave no correction": 1}


def test_a_model_or_an_endpoint(run_here: RunTool, tmp_path: Path) -> None:
    files = ("--samples", tmp_path / "x.jsonl", "--output", tmp_path / "y.jsonl")
    command = ("synthesize_in2", "self-correction", *files)
    assert_refused(run_here(*command), "give --model, or --base-url")
    assert_refused(run_here(*command, "--base-url", "http://localhost:1/v1"), "--served-model")
