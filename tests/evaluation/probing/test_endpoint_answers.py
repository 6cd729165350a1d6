"""Answers through a real HTTP server: an oracle, a fake lost in the middle, and failures."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.evaluation.probing.endpoint_answers import (
    EndpointAnswerer,
    EndpointConfig,
    _text_of,
    user_message,
)
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.evaluation.probing.score import Grouping, ProbeReport, score_predictions
from megatron_in2.synthesis.llm.failures import FailedCallError
from tests.conftest import RunTool, assert_refused
from tests.evaluation.conftest import Serve


def _answerer(url: str, api: str = "completions", concurrency: int = 8) -> EndpointAnswerer:
    config = EndpointConfig(url, "fake", api=api, concurrency=concurrency, retries=0)
    return EndpointAnswerer(config, max_new_tokens=128)


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
    # One at a time: otherwise an early request may come late, and those behind it are not kept.
    failing = _answerer(serve(0.5, fail_after=50), concurrency=1)
    with pytest.raises(InputError, match=r"document\.jsonl:\d+: http.* failed: .*out of order"):
        generate_predictions(failing, asked, output)
    kept = output.read_text().splitlines()
    assert len(kept) == 50
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


class _Gate(BaseHTTPRequestHandler):
    """Answers only to a client that keeps the server full, also while the first answer is late."""

    protocol_version = "HTTP/1.1"
    SIZE = 4

    def do_POST(self) -> None:
        name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        server: Any = self.server
        with server.lock:
            server.inside += 1
            server.most = max(server.most, server.inside)
        if int(name) < self.SIZE:
            server.full.wait(60)
        if name == "0":
            server.others_done.wait(60)
        with server.lock:
            server.inside -= 1
            server.done += 1
            if server.done == 3 * self.SIZE:
                server.others_done.set()
        body = json.dumps({"choices": [{"text": f"answer {name}"}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def gate() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Gate)
    server.lock, server.inside, server.most, server.done = threading.Lock(), 0, 0, 0
    server.full, server.others_done = threading.Barrier(_Gate.SIZE), threading.Event()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_server_is_kept_full_and_no_fuller(gate: Any) -> None:
    url = f"http://127.0.0.1:{gate.server_address[1]}/v1"
    config = EndpointConfig(url, "fake", concurrency=_Gate.SIZE, retries=0)
    probes: list[Line] = [(f"p:{name}", {"prompt": str(name)}) for name in range(20)]
    answers = EndpointAnswerer(config, max_new_tokens=8).answer(probes)
    assert [each["samples"] for each in answers] == [[f"answer {name}"] for name in range(20)]
    assert gate.most == _Gate.SIZE


@pytest.mark.parametrize(
    ("body", "message"),
    [("[]", "the reply is no completion"), ('{"choices": [{"text": 3}]}', "the reply's text is 3")],
)
def test_replies_that_are_none(body: str, message: str) -> None:
    with pytest.raises(FailedCallError, match=message):
        _text_of(body)


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
