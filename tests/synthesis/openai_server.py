"""A server process that speaks the OpenAI protocol and misbehaves, for tests.

``python openai_server.py PORT_FILE OPTIONS_JSON`` listens on a free port of this machine and
writes it to PORT_FILE. What it does with a request depends on the request and on how often it
was sent; the answer to it is always the same. It counts what a provider would bill: whole, good
replies.

    POST /v1/chat/completions, /v1/files, /v1/batches, GET ... as in the OpenAI API
    GET  /stats     what happened so far
    POST /options   changes the options of a running server

Options, beside those of ``State.fault``: ``delay``, ``hold``, ``slow`` (share, seconds) of replies;
``status_for`` (word in the prompt -> HTTP status), ``always`` (status of all); ``poison`` (share of
replies that break readers), ``bad`` (share of useless replies); ``no_quotes``, ``no_usage``;
``no_schema`` and ``schema_refused_after`` (requests); ``wants_completion_tokens``; ``echo_key``;
for batches ``file_limit`` (bytes), ``queue_limit`` (batches at once), ``lost_lines`` (share).
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


POISON = (
    r'{"question": "Who is \ud83d?", "answer": "Nobody."}',
    "[" * 20_000,
    '{"question": ' * 2_000 + "1" + "}" * 2_000,
    '{"question": "Who?", "answer": "\\u0000"}',
    "\n" * 30_000,
    "\ud800",
)


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
        self.requests = 0  # those with a schema
        self.before_first_slow: int | None = None  # requests that came before a slow reply went
        self.most_batches = 0  # under way at once
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


def answer_to(payload: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Return the message for a payload: always the same, and tied to its passage."""
    prompt = payload["messages"][0]["content"]
    chance = random.Random(hashlib.sha256(prompt.encode()).hexdigest())
    kind, poison = chance.random(), random.Random(f"poison/{prompt}")
    if poison.random() < options.get("poison", 0.0):
        return {"content": poison.choice(POISON)}
    if poison.random() < options.get("bad", 0.0):
        return {"content": "I would rather talk about the weather."}
    if prompt.startswith("Answer from what you already know"):
        return {"content": "UNKNOWN" if kind < 0.9 else "It is told of " + _opening(prompt) + "."}
    if prompt.startswith("Someone answered a question"):
        return {"content": json.dumps({"correct": kind < 0.5})}
    if prompt.startswith("Put the question below"):
        new = f"What is number {int(kind * 10**9)}?" if kind < 0.8 else "Put it how?"
        return {"content": json.dumps({"question": new})}
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
    if options.get("no_quotes"):
        return {"content": f"{pair['question']}\n\n### Answer ###:\n{pair['answer']}"}
    pieces = re.findall(r"^Piece \d+:\n(.+)$", prompt, re.MULTILINE)
    if pieces:
        chosen = chance.sample(range(len(pieces)), 2)
        quotes = [{"piece": i + 1, "quote": " ".join(pieces[i].split()[:4])} for i in chosen]
        if kind > 0.95:
            quotes[0]["quote"] = "words that no piece holds"
        return {"content": json.dumps({**pair, "quotes": quotes})}
    if "### Question ###:" in prompt:
        return {"content": f"{pair['question']}\n\n### Answer ###:\n{pair['answer']}"}
    if "response_format" not in payload:
        return {"content": f"Question: {pair['question']}\nAnswer: {pair['answer']}"}
    return {"content": json.dumps(pair)}


def _opening(prompt: str) -> str:
    for mark in ("Passage:\n", "Piece 1:\n", "### Context ###:\n", "Question: "):
        if mark in prompt:
            return " ".join(prompt.split(mark, 1)[1].split("\n\n")[0].split()[:12])
    raise AssertionError("a prompt that the tests do not know")


def completion(payload: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    message = answer_to(payload, options)
    key = payload_key(payload)
    usage = {"prompt_tokens": 300, "completion_tokens": 50, "total_tokens": 350}
    return {
        "id": f"chatcmpl-{key[:12]}",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": payload["model"],
        "choices": [
            {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}
        ],
        **({} if options.get("no_usage") else {"usage": usage}),
    }


def payload_key(payload: dict[str, Any]) -> str:
    """Name what is asked, as the journal does."""
    named = {key: value for key, value in payload.items() if key != "response_format"}
    if "max_completion_tokens" in named:
        named["max_tokens"] = named.pop("max_completion_tokens")
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).digest()[:16].hex()


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
                    "most_batches": state.most_batches,
                    "file_sizes": [
                        len(state.files[batch["input_file_id"]])
                        for batch in state.batches.values()
                    ],
                    "before_first_slow": state.before_first_slow,
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
        options, sent = self.state.options, self.headers.get("Authorization", "")
        if self.path == "/options":
            options.update(json.loads(body))
            if (earlier := options.pop("put_batch", None)) is not None:
                content = "".join(json.dumps(line) + "\n" for line in earlier["lines"]).encode()
                name, token = self._keep(content)["id"], earlier["token"]
                self._batch({
                    "input_file_id": name, "metadata": {"megatron_in2_batch": token},
                    "endpoint": "/v1/chat/completions",
                })  # fmt: skip
            else:
                self._reply(200, {})
        elif "wrong" in sent:
            echoed = f": {sent}" if options.get("echo_key") else ""
            error = {"message": f"Incorrect API key{echoed}", "code": "invalid"}
            self._reply(401, {"error": error})
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
            while state.options.get("hold"):
                time.sleep(0.02)
            time.sleep(delay := self._delay(payload))
            with state.lock:
                if delay > state.options.get("delay", 0.0) and state.before_first_slow is None:
                    state.before_first_slow = len(state.times)
            self._answer(payload)
        finally:
            with state.lock:
                state.in_flight -= 1

    def _delay(self, payload: dict[str, Any]) -> float:
        share, seconds = self.state.options.get("slow", (0.0, 0.0))
        if random.Random(f"slow/{payload_key(payload)}").random() < share:
            return float(seconds)
        return float(self.state.options.get("delay", 0.0))

    def _refusal(self, payload: dict[str, Any]) -> tuple[int, str] | None:
        """Return the status and the message of a request that gets no answer at all."""
        state, options = self.state, self.state.options
        prompt = payload["messages"][0]["content"]
        for word, status in options.get("status_for", {}).items():
            if word in prompt:
                echoed = self.headers.get("Authorization") if options.get("echo_key") else ""
                return status, f"always so {echoed}"
        if options.get("wants_completion_tokens") and "max_tokens" in payload:
            return 400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        if "response_format" in payload:
            with state.lock:
                state.requests += 1
                late = state.requests > options.get("schema_refused_after", state.requests)
            if late or options.get("no_schema"):
                return 400, "response_format json_schema is not supported"
        return (options["always"], "always so") if options.get("always") else None

    def _answer(self, payload: dict[str, Any]) -> None:
        state, key = self.state, payload_key(payload)
        if (refusal := self._refusal(payload)) is not None:
            error = {"message": refusal[1], "code": state.options.get("code")}
            return self._reply(refusal[0], {"error": error})
        fault = state.fault(key)
        with state.lock:
            state.faults[fault or "none"] += 1
        body = json.dumps(completion(payload, state.options)).encode()
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
                content = part.get_payload(decode=True)
                if len(content) > self.state.options.get("file_limit", len(content)):
                    error = {"message": "file too large", "code": None}
                    self._reply(413, {"error": error})
                    return
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
            running = sum(b["status"] == "in_progress" for b in state.batches.values())
            full = running >= state.options.get("queue_limit", running + 1)
            state.most_batches = max(state.most_batches, running + (not full))
            batch: dict[str, Any] = {
                "id": f"batch-{len(state.batches)}", "object": "batch", "status": "in_progress",
                "created_at": int(time.time()), "metadata": wanted["metadata"],
                "endpoint": wanted["endpoint"], "input_file_id": wanted["input_file_id"],
                "completion_window": "24h", "polls": 0,
                "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            }  # fmt: skip
            code, message = None, state.options.get("fail_batches")
            if full:
                code, message = "token_limit_exceeded", "Enqueued token limit reached"
            if message:
                batch["status"] = "failed"
                batch["errors"] = {"object": "list", "data": [{"code": code, "message": message}]}
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
            key = payload_key(request["body"])
            fault = state.fault(key)
            lost = state.options.get("lost_lines", 0.0)
            result = {"id": "r", "custom_id": request["custom_id"], "error": None}
            if (refusal := self._refusal(request["body"])) is not None:
                error = {"error": {"message": refusal[1]}}
                bad.append({**result, "response": {"status_code": refusal[0], "body": error}})
            elif fault is None:
                with state.lock:
                    state.billed[key] += 1
                    first = state.billed[key] == 1
                if first and random.Random(f"lost/{key}").random() < lost:
                    continue
                body = completion(request["body"], state.options)
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
