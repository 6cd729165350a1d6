"""An OpenAI-compatible server that answers probes by reading them, as its own process.

Usage: fake_endpoint.py SEEN FAIL_AFTER

It sees SEEN of the context at either end (0.5: all of it, an oracle; 0.2: only the ends, a model
that is lost in the middle), finds there what the question quotes, and copies the answer. After
FAIL_AFTER answers every request gets status 500 (-1: never). Prints its port first.
"""

import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

DOCUMENT = re.compile(r'which sentence contains the piece "(.*)"\?', re.S)
CODE = re.compile(r'which function contains the code snip "(.*)" \?', re.S)
DATABASE = re.compile(r"for the query where the id is (.*) \?", re.S)


def answer(prompt: str, seen: float) -> str | None:
    body = prompt.split("### Context:\n", 1)[1]
    context, question = body.rsplit("\n\n### Instruction:\n", 1)
    if "REFUSE" in question:
        return None
    if match := CODE.search(question):
        return next(
            (
                unit.split(":")[0].removeprefix("def ")
                for unit in ends(context.split("\n\n"), seen)
                if match[1] in unit
            ),
            "unknown",
        )
    match = DOCUMENT.search(question) or DATABASE.search(question)
    assert match, question
    lines = (line for line in ends(context.split("\n"), seen) if match[1] in line)
    return next(lines, "unknown")


def ends(units: list[str], seen: float) -> list[str]:
    count = round(seen * len(units))
    return units[:count] + units[len(units) - count :]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    seen = 0.5
    left = -1
    lock = threading.Lock()

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Handler.lock:
            failing = Handler.left == 0
            Handler.left -= Handler.left > 0
        if failing:
            self.reply(500, {"error": {"message": "out of order"}})
        elif self.path == "/v1/completions":
            assert request["prompt"].startswith("[INST] ")
            assert request["temperature"] == 0
            self.reply(200, {"choices": [{"index": 0, "text": self.answer(request["prompt"])}]})
        elif self.path == "/v1/chat/completions":
            (message,) = request["messages"]
            assert "[INST]" not in message["content"]
            content = self.answer(message["content"])
            reply = {"index": 0, "message": {"role": "assistant", "content": content}}
            self.reply(200, {"choices": [reply]})
        else:
            self.reply(404, {"error": {"message": f"no {self.path}"}})

    def answer(self, prompt: str) -> str | None:
        return answer(prompt, self.seen)

    def reply(self, status: int, body: dict) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Handler.seen, Handler.left = float(sys.argv[1]), int(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
