"""A server process that speaks the OpenAI protocol, and what paid writers need."""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture
def api_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    # A proxy of this machine must not come between a test and its own server.
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def environment(api_key: None) -> dict[str, str]:
    return dict(os.environ)
