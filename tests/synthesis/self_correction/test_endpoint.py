"""Attempts from an endpoint, through the command: journalled, resumed, never asked twice."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from megatron_in2.files import read_json, read_json_lines
from tests.conftest import RunTool, assert_refused


class _Handler(BaseHTTPRequestHandler):
    asked: ClassVar[list[dict[str, Any]]] = []
    limit = 1000

    @staticmethod
    def answer(payload: dict[str, Any], prompt: str) -> str:
        number = int(prompt.split("number ")[1].split("?")[0])
        if prompt.startswith("Compare an answer"):
            attempt = prompt.rpartition("Answer: ")[2].strip()
            return json.dumps({"right": attempt == str(number)}) if number else "I cannot say."
        if prompt.startswith("Somebody answered"):
            assert prompt.endswith("Passage:\nNumbers.\n"), prompt
            return json.dumps({"correction": f"I counted {number} wrongly."}) if number > 1 else ""
        return f"{number}" if (number + payload["seed"]) % 2 else f"{number + 1}"

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(payload)
        content = self.answer(payload, payload["messages"][-1]["content"])
        choice = {"message": {"content": content}, "finish_reason": "stop"}
        reply = {
            "id": f"c{len(self.asked)}",
            "choices": [choice],
            "usage": {"prompt_tokens": 9, "completion_tokens": 1},
        }
        status = 200 if len(self.asked) <= type(self).limit else 401
        body = json.dumps(reply if status == 200 else {"error": "no"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    _Handler.asked, _Handler.limit = [], 1000
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}/v1"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_attempts_of_an_endpoint(run_here: RunTool, server: str, tmp_path: Path) -> None:
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
        *("synthesize_in2", "self-correction", "--base-url", server, "--served-model", "m"),
        *("--samples", samples, "--output", output, "--judge", "number", "--tries", "2"),
        *("--concurrency", "2", "--plain-share", "0"),
    ]
    _Handler.limit = 7
    assert_refused(run_here(*command), "HTTP 401")
    _Handler.limit = 1000
    result = run_here(*command)
    assert result.returncode == 0, result.stderr
    assert "50.0% right" in result.stdout
    assert len({json.dumps(each, sort_keys=True) for each in _Handler.asked}) == 20
    answered = [record for _, record in read_json_lines(output)]
    assert [record["kind"] for record in answered].count("short_corrected") == 5
    asked = _Handler.asked[0]
    assert asked["messages"][0]["content"].startswith("Below is a context and an instruction.")
    assert (asked["temperature"], asked["max_tokens"]) == (0.8, 128)
    rejects = [each for _, each in read_json_lines(tmp_path / "y.jsonl.rejects.jsonl")]
    assert [each["reason"] for each in rejects] == [
        "a sample of parts has no messages for an endpoint"
    ]
    assert read_json(tmp_path / "y.jsonl.report.json")["accuracy"] == 0.5
    before = len(_Handler.asked)
    for name in ("y.jsonl", "y.jsonl.attempts.jsonl"):  # the journal has all answers
        (tmp_path / name).unlink()
    assert run_here(*command).returncode == 0
    assert len(_Handler.asked) == before
    assert [record for _, record in read_json_lines(output)] == answered


def test_a_teacher_judges_and_explains(run_here: RunTool, server: str, tmp_path: Path) -> None:
    samples, output = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    records = [
        {"id": f"s{n}", "kind": "short", "context": "Numbers. More.", "evidence": [[0, 8]],
         "question": f"Say number {n}?", "answer": str(n)}
        for n in range(6)
    ]  # fmt: skip
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [
        *("synthesize_in2", "self-correction", "--base-url", server, "--served-model", "m"),
        *("--samples", samples, "--output", output, "--judge", "model", "--tries", "2"),
        *("--plain-share", "0", "--wrong-share", "1", "--correct-by", "writer"),
    ]
    assert_refused(run_here(*command), "give --teacher-model")
    command += ["--teacher-url", server, "--teacher-model", "teacher"]
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
