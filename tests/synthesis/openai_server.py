"""A server process that speaks the OpenAI protocol and misbehaves, for tests.

``python openai_server.py PORT_FILE OPTIONS_JSON`` listens on a free port of this machine and
writes it to PORT_FILE. What it does with a request depends on the request and on how often it
was sent; the answer to it is always the same. It counts what a provider would bill: whole, good
replies.

    POST /v1/chat/completions, /v1/files, /v1/batches, GET ... as in the OpenAI API
    GET  /stats     what happened so far
"""

import contextlib
import email
import email.policy
import hashlib
import json
import random
import re
import socket
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FAULTS = (
    "429 with Retry-After", "429 with retry-after-ms", "429", "500", "503", "timeout",
    "dropped connection", "truncated", "malformed JSON", "null choices", "sent twice",
)  # fmt: skip


class State:
    """What the server remembers; guarded by one lock."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.lock = threading.Lock()
        self.tries: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.in_flight = 0
        self.most_in_flight = 0
        self.times: list[float] = []
        self.hold_until = 0.0
        self.early = 0  # requests that came while a Retry-After ran: none, one at a time
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}

    def fault(self, key: str) -> str | None:
        """Choose what goes wrong with this try; every request is answered in the end."""
        with self.lock:
            self.tries[key] += 1
            tries = self.tries[key]
        chance = random.Random(f"{key}/{tries}")
        if tries > 4 or chance.random() >= self.options.get("fault_rate", 0.0):
            return None
        return chance.choice(self.options.get("faults", FAULTS))


def answer_to(payload: dict[str, Any]) -> dict[str, Any]:
    """Return the message for a payload: always the same, and tied to its passage."""
    prompt = payload["messages"][0]["content"]
    chance = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    kind = chance.random()
    if prompt.startswith("Answer from what you already know"):
        return {"content": "UNKNOWN" if kind < 0.9 else "It is told of " + _opening(prompt) + "."}
    if prompt.startswith("Check an answer"):
        return {"content": json.dumps({"supported": kind < 0.9})}
    if kind < 0.02:
        return {"content": None, "refusal": "I cannot help with that."}
    if kind < 0.04:
        return {"content": '{"question": "Half a'}
    if kind < 0.05:
        return {"content": ""}
    if kind < 0.07:  # the reply that somebody else got
        return {"content": json.dumps({"question": "What is the same?", "answer": "This."})}
    if kind < 0.09:
        pair = {"question": "What happens in the passage?", "answer": "Based on the text, much."}
        return {"content": json.dumps(pair)}
    words = _opening(prompt)
    pair = {"question": f"What is told of <{words}> here?", "answer": f"It is told of {words}."}
    pieces = re.findall(r"^Piece \d+:\n(.+)$", prompt, re.MULTILINE)
    if pieces:
        chosen = chance.sample(range(len(pieces)), 2)
        quotes = [{"piece": i + 1, "quote": " ".join(pieces[i].split()[:4])} for i in chosen]
        if kind > 0.95:
            quotes[0]["quote"] = "words that no piece holds"
        return {"content": json.dumps({**pair, "quotes": quotes})}
    if "response_format" not in payload:
        return {"content": f"Question: {pair['question']}\nAnswer: {pair['answer']}"}
    return {"content": json.dumps(pair)}


def _opening(prompt: str) -> str:
    for mark in ("Passage:\n", "Piece 1:\n", "Question: "):
        if mark in prompt:
            return " ".join(prompt.split(mark, 1)[1].split("\n\n")[0].split()[:12])
    raise AssertionError("a prompt that the tests do not know")


def completion(payload: dict[str, Any]) -> dict[str, Any]:
    message = answer_to(payload)
    key = payload_key(payload)
    return {
        "id": f"chatcmpl-{key[:12]}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": payload["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
        ],
        "usage": {"prompt_tokens": 300, "completion_tokens": 50, "total_tokens": 350},
    }


def payload_key(payload: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: State

    def log_message(self, format: str, *values: object) -> None:
        pass

    def do_GET(self) -> None:
        state, parts = self.state, self.path.split("?")[0].strip("/").split("/")
        if parts == ["stats"]:
            with state.lock:
                self._reply(200, {
                    "distinct": len(state.billed), "billed": state.billed.total(),
                    "tries": state.tries.total(), "faults": dict(state.faults),
                    "most_in_flight": state.most_in_flight, "early": state.early,
                    "times": state.times, "batches": len(state.batches),
                    "files": len(state.files), "keys": sorted(state.billed),
                })  # fmt: skip
        elif parts[1:2] == ["batches"] and len(parts) == 3:
            self._reply(200, self._advance(parts[2]))
        elif parts[1:2] == ["batches"]:
            batches = sorted(state.batches.values(), key=lambda b: -b["created_at"])
            self._reply(200, {"object": "list", "data": batches, "has_more": False})
        elif parts[-1] == "content":
            self._send(200, state.files[parts[2]], {})
        else:
            self._reply(404, {"error": {"message": "no such thing", "code": None}})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") == "Bearer wrong":
            self._reply(401, {"error": {"message": "Incorrect API key", "code": "invalid"}})
        elif self.path.endswith("/chat/completions"):
            self._chat(json.loads(body))
        elif self.path.endswith("/files"):
            self._file(body)
        elif self.path.endswith("/batches"):
            self._batch(json.loads(body))

    def _chat(self, payload: dict[str, Any]) -> None:
        state = self.state
        with state.lock:
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
            state.times.append(time.monotonic())
            state.early += time.monotonic() < state.hold_until
        try:
            time.sleep(state.options.get("delay", 0.0))
            self._answer(payload)
        finally:
            with state.lock:
                state.in_flight -= 1

    def _answer(self, payload: dict[str, Any]) -> None:
        state, key = self.state, payload_key(payload)
        if "response_format" in payload and state.options.get("no_schema"):
            error = {"message": "response_format json_schema is not supported", "code": None}
            return self._reply(400, {"error": error})
        if status := state.options.get("always"):
            error = {"message": "always so", "code": state.options.get("code")}
            return self._reply(status, {"error": error})
        fault = state.fault(key)
        with state.lock:
            state.faults[fault or "none"] += 1
        body = json.dumps(completion(payload)).encode()
        error = {"error": {"message": str(fault), "code": None}}
        if fault == "429 with Retry-After":
            with state.lock:
                state.hold_until = time.monotonic() + 1.0
            return self._reply(429, error, {"Retry-After": "1"})
        if fault == "429 with retry-after-ms":
            return self._reply(429, error, {"retry-after-ms": "20"})
        if fault in ("429", "500", "503"):
            return self._reply(int(fault), error)
        if fault == "timeout":
            time.sleep(state.options["timeout_seconds"] * 1.5)
            return self._hang_up()
        if fault == "dropped connection":
            return self._hang_up()
        if fault == "truncated":
            self._send(200, body[: len(body) // 2], {"Content-Length": str(len(body))})
            return self._hang_up()
        if fault == "malformed JSON":
            return self._send(200, body[: len(body) // 2], {})
        if fault == "null choices":
            return self._reply(200, {"id": "x", "object": "chat.completion", "choices": None})
        with state.lock:
            state.billed[key] += 1
        if fault == "sent twice":
            self._send(200, body, {})
        self._send(200, body, {})
        return None

    def _file(self, body: bytes) -> None:
        header = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = email.message_from_bytes(header + body, policy=email.policy.HTTP)
        for part in message.iter_parts():
            if part.get_filename():
                kept = self._keep(part.get_payload(decode=True))
                time.sleep(self.state.options.get("slow_batches", 0.0))
                self._reply(200, kept)

    def _keep(self, content: bytes) -> dict[str, Any]:
        with self.state.lock:
            name = f"file-{len(self.state.files)}"
            self.state.files[name] = content
        return {
            "id": name, "object": "file", "bytes": len(content), "created_at": int(time.time()),
            "filename": "x.jsonl", "purpose": "batch", "status": "processed",
        }  # fmt: skip

    def _batch(self, wanted: dict[str, Any]) -> None:
        state = self.state
        lines = state.files[wanted["input_file_id"]].splitlines()
        with state.lock:
            batch = {
                "id": f"batch-{len(state.batches)}", "object": "batch", "status": "in_progress",
                "created_at": int(time.time()), "metadata": wanted["metadata"],
                "endpoint": wanted["endpoint"], "input_file_id": wanted["input_file_id"],
                "completion_window": "24h", "polls": 0,
                "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            }  # fmt: skip
            state.batches[batch["id"]] = batch
        time.sleep(state.options.get("slow_batches", 0.0))
        self._reply(200, batch)

    def _advance(self, name: str) -> dict[str, Any]:
        """End a batch on its third look: some requests fail, and some are left out."""
        state, batch = self.state, self.state.batches[name]
        batch["polls"] += 1
        if batch["polls"] < 3 or batch["status"] != "in_progress":
            return batch
        good, bad = [], []
        for line in state.files[batch["input_file_id"]].splitlines():
            request = json.loads(line)
            fault = state.fault(payload_key(request["body"]))
            result = {"id": "r", "custom_id": request["custom_id"], "error": None}
            if fault is None:
                with state.lock:
                    state.billed[payload_key(request["body"])] += 1
                body = completion(request["body"])
                good.append({**result, "response": {"status_code": 200, "body": body}})
            elif fault in ("500", "503"):
                body = {"error": {"message": fault}}
                bad.append({**result, "response": {"status_code": int(fault), "body": body}})
            elif fault == "timeout":
                error = {"code": "batch_expired", "message": "expired"}
                bad.append({**result, "response": None, "error": error})
        for field, results in (("output_file_id", good), ("error_file_id", bad)):
            content = "".join(json.dumps(result) + "\n" for result in results).encode()
            batch[field] = self._keep(content)["id"] if results else None
        batch["request_counts"]["completed"] = len(good)
        batch["status"] = "expired" if bad else "completed"
        return batch

    def _reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), headers or {})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that was killed leaves broken pipes: no word about them."""


def main() -> None:
    port_file, options = Path(sys.argv[1]), json.loads(sys.argv[2])
    Handler.state = State(options)
    server = Server(("127.0.0.1", 0), Handler)
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(server.server_port))
    temporary.rename(port_file)
    server.serve_forever()


if __name__ == "__main__":
    main()
