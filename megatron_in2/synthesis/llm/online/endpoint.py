"""One server's ``chat/completions``: a payload out, a chat completion in, over aiohttp.

Measured on one core, aiohttp needs 0.2 to 0.5 ms of CPU a request where the OpenAI client needs
2.1; the other calls (files, batches) are few and use that client.
"""

import json
import ssl
import urllib.request
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import certifi

from megatron_in2.synthesis.llm.envelopes import checked_envelope
from megatron_in2.synthesis.llm.failures import (
    FailedCallError,
    Redactor,
    connection_failure,
    status_failure,
)

OPENAI = "https://api.openai.com/v1"
MAX_BODY_BYTES = 8_000_000  # no answer of some thousand tokens is longer
CONNECT_SECONDS = 20.0
_NAMED_REPLIES = 16  # replies with ids of their own before connections are kept
_REMEMBERED_IDS = 4096


class ChatEndpoint:
    """Posts payloads to one server.

    If a server sends a reply twice on a reused connection, the second copy would be taken for the
    answer to the next request. So connections are reused only if replies have ids and no id comes
    twice; otherwise each request has its own connection.

    Args:
        base_url: such as http://localhost:8000/v1; None is OpenAI's own.
        key: the API key.
        timeout_seconds: for one attempt.
        redact: takes keys out of what is raised and returned.
    """

    def __init__(
        self, base_url: str | None, key: str, timeout_seconds: float, redact: Redactor
    ) -> None:
        self._url = f"{(base_url or OPENAI).rstrip('/')}/chat/completions"
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._timeout = aiohttp.ClientTimeout(timeout_seconds, sock_connect=CONNECT_SECONDS)
        self._proxy = _proxy_for(self._url)
        self._redact = redact
        self._sessions: dict[bool, aiohttp.ClientSession] = {}  # by whether connections are kept
        self._ids: set[str] = set()
        self._latest_ids: deque[str] = deque()
        self._keeps = True

    async def complete(self, payload: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """Have one request answered.

        Returns:
            The chat completion, and its JSON as it came, without the key.

        Raises:
            FailedCallError: no whole and readable reply with status 200 came.
        """
        keeps = self._keeps and len(self._ids) >= _NAMED_REPLIES
        body = await self._post(payload, keeps)
        envelope = checked_envelope(body)
        self._note(envelope.get("id"), keeps)
        return envelope, body.encode("utf-8", "surrogatepass")

    async def _post(self, payload: dict[str, Any], keeps: bool) -> str:
        data = json.dumps(payload).encode()
        try:
            async with self._session(keeps).post(
                self._url, data=data, proxy=self._proxy, allow_redirects=False
            ) as response:
                body = await self._read(response)
                if response.status != 200:
                    raise status_failure(response.status, body, response.headers, self._redact)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise connection_failure(error, self._redact) from error

    def _note(self, name: Any, was_kept: bool) -> None:
        """Remember a reply's id; on a kept connection, one that came before belongs to another."""
        if not isinstance(name, str) or not name or name in self._ids:
            self._keeps = False
            if was_kept:
                raise FailedCallError(
                    f"a reply of the id {str(name)[:40]!r} came before", True, perhaps_billed=True
                )
            return
        self._ids.add(name)
        self._latest_ids.append(name)
        if len(self._latest_ids) > _REMEMBERED_IDS:
            self._ids.discard(self._latest_ids.popleft())

    async def close(self) -> None:
        for session in self._sessions.values():
            await session.close()

    def _session(self, keep: bool) -> aiohttp.ClientSession:
        if keep not in self._sessions:
            secure = ssl.create_default_context()
            secure.load_verify_locations(certifi.where())
            connector = aiohttp.TCPConnector(limit=0, force_close=not keep, ssl=secure)
            self._sessions[keep] = aiohttp.ClientSession(
                connector=connector,
                headers=self._headers,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._sessions[keep]

    async def _read(self, response: aiohttp.ClientResponse) -> str:
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise FailedCallError(
                    f"a reply of more than {MAX_BODY_BYTES:,} bytes", True, perhaps_billed=True
                )
        return self._redact.body(b"".join(chunks).decode("utf-8", "replace"))


def _proxy_for(url: str) -> str | None:
    """Return the proxy that the environment names for an address, or None."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)
