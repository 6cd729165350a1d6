"""A fast chat server for ``paid_questions.py``: ``python chat_server.py PORT_FILE OPTIONS_JSON``.

It answers ``/v1/chat/completions`` after ``delay`` seconds, a share ``slow`` of the requests after
``slow_delay``. With ``rate`` it takes that many requests a second, ``burst`` at once, and refuses
the others with HTTP 429 and a Retry-After of one second. GET ``/stats`` returns how many were
answered and refused, and the seconds from the first request to the last reply; a GET starts anew.
"""

import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

WORDS = "the letter says that two engineers met at the old harbour before the winter of that year"


class ChatServer:
    """What the server remembers between two looks at its figures."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._saved = float(options.get("burst", 0))
        self._seen = time.monotonic()
        self._restart()

    def _restart(self) -> None:
        self._answered = self._refused = 0
        self._first: float | None = None
        self._last = 0.0

    async def chat(self, request: web.Request) -> web.Response:
        """Answer one request: the same body, the same answer."""
        body = await request.read()
        if self._first is None:
            self._first = time.monotonic()
        name = hashlib.blake2b(body, digest_size=12).hexdigest()
        if not self._is_taken():
            self._refused += 1
            error = {"error": {"message": "rate limit", "code": "rate_limit_exceeded"}}
            return web.json_response(error, status=429, headers={"Retry-After": "1"})
        is_slow = int(name[:6], 16) < self._options.get("slow", 0.0) * 0xFFFFFF
        await asyncio.sleep(self._options["slow_delay" if is_slow else "delay"])
        self._answered += 1
        self._last = time.monotonic()
        return web.Response(text=completion(name), content_type="application/json")

    async def stats(self, request: web.Request) -> web.Response:
        """Return the figures and start anew."""
        figures = {
            "answered": self._answered,
            "refused": self._refused,
            "seconds": self._last - (self._first or self._last),
        }
        self._restart()
        return web.json_response(figures)

    def _is_taken(self) -> bool:
        rate = self._options.get("rate", 0.0)
        if not rate:
            return True
        now = time.monotonic()
        earned = (now - self._seen) * rate
        self._saved, self._seen = min(self._saved + earned, self._options["burst"]), now
        self._saved -= (taken := self._saved >= 1)
        return taken


def completion(name: str) -> str:
    """Return the chat completion to a request of that name, JSON."""
    pair = {
        "question": f"What happened at the harbour that record {name} describes?",
        "answer": f"As record {name} has it, {WORDS}; {WORDS[4:60]}.",
    }
    message = {"role": "assistant", "content": json.dumps(pair)}
    return json.dumps(
        {
            "id": f"chatcmpl-{name}",
            "object": "chat.completion",
            "created": 1_700_000_000,
            "model": "a-model",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 400, "completion_tokens": 70, "total_tokens": 470},
        }
    )


async def _serve(port_file: Path, options: dict[str, Any]) -> None:
    server = ChatServer(options)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/stats", server.stats)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    temporary = port_file.with_suffix(".new")
    temporary.write_text(str(runner.addresses[0][1]))
    temporary.rename(port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1]), json.loads(sys.argv[2])))
