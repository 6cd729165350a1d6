"""A server process that speaks the OpenAI protocol, and what paid writers need."""

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from megatron_in2.segment_store import write_store
from megatron_in2.tokenizers.base import Tokenizer

SERVER = Path(__file__).with_name("openai_server.py")


@dataclass(frozen=True)
class ServerProcess:
    url: str

    def change(self, **options: Any) -> None:
        """Change what the running server does."""
        data = json.dumps(options).encode()
        root = self.url.removesuffix("/v1")
        with urllib.request.urlopen(f"{root}/options", data=data, timeout=30):
            pass

    def put_batch(self, token: str, payloads: dict[str, str]) -> None:
        """Have a batch that somebody created earlier: payloads by custom id, as JSON."""
        lines = [
            {"custom_id": name, "method": "POST", "url": "/v1/chat/completions",
             "body": json.loads(payload)}
            for name, payload in payloads.items()
        ]  # fmt: skip
        self.change(put_batch={"token": token, "lines": lines})

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"{self.url.removesuffix('/v1')}/stats", timeout=30) as reply:
            return json.load(reply)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start server processes with given options; they end with the test."""
    with contextlib.ExitStack() as stack:

        def start(**options: Any) -> ServerProcess:
            port_file = tmp_path / f"port-{time.monotonic_ns()}"
            options = {"timeout_seconds": 1.0, **options}
            process = subprocess.Popen(
                [sys.executable, str(SERVER), str(port_file), json.dumps(options)]
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            while not port_file.exists():
                assert process.poll() is None, "the server did not start"
                time.sleep(0.02)
            return ServerProcess(f"http://127.0.0.1:{port_file.read_text()}/v1")

        yield start


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> Path:
    """A part of the prose, cut in a second."""
    path = tmp_path_factory.mktemp("corpus") / "small.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:250]))
    return path


def write_samples(
    folder: Path,
    lines: list[str],
    tokenizer: Tokenizer,
    record: Callable[[int, Path], dict[str, Any]],
) -> Path:
    """Write 40 samples, and beside them the store of one document whose segments are the lines.

    Args:
        record: returns the sample of a number, for the store at a path.
    """
    folder.mkdir()
    ids = tokenizer.encode_lines(lines)
    store = folder / "x.segments"
    write_store(store, [("d", list(zip(lines, ids, strict=True)))], tokenizer)
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(record(n, store)) + "\n" for n in range(40)))
    return path


@contextlib.contextmanager
def serve_chat(reply: Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]) -> Iterator[str]:
    """Answer requests in this process, ``reply`` giving status and body; yields the base URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            payload = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = reply(payload)
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.server_port}/v1"
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()


def chat_reply(number: int, content: str, prompt_tokens: int, tokens: int) -> dict[str, Any]:
    """Return the body of one complete answer."""
    return {
        "id": f"c{number}",
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": tokens},
    }


@pytest.fixture
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    # A proxy of this machine must not come between a test and its own server.
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def environment(api_key: None) -> dict[str, str]:
    return dict(os.environ)
