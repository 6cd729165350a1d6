"""Answers through any OpenAI-compatible endpoint: vLLM serving an export, or a hosted model."""

import asyncio
import itertools
import json
import os
import ssl
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import certifi

from megatron_in2.choices import as_option, require_choices
from megatron_in2.errors import InputError
from megatron_in2.evaluation.lines import Line
from megatron_in2.synthesis.llm.failures import (
    FailedCallError,
    Redactor,
    backoff,
    connection_failure,
    status_failure,
)
from megatron_in2.templates.film import FILM

Api = Literal["completions", "chat"]
_TIMEOUT_SECONDS = 600.0  # of one answer
_FIRST_WAIT_SECONDS = 0.5  # before another try
_AHEAD = 8  # requests made ready, for each that the server may have


@dataclass(frozen=True)
class EndpointConfig:
    """An endpoint and how it is asked; its key is taken from OPENAI_API_KEY.

    Args:
        url: its base, such as http://localhost:8000/v1.
        model: the name that it serves.
        api: ``completions`` sends the prompt as it is, template and all (vLLM); ``chat`` sends the
            user's message in it, without the template's marks, for models that have a chat
            template of their own.
        concurrency: requests under way at once.
        retries: of a request that fails, before the run stops.
    """

    url: str
    model: str
    api: Api = "completions"
    concurrency: int = 8
    retries: int = 5

    def __post_init__(self) -> None:
        require_choices(self, as_option)
        if self.concurrency < 1 or self.retries < 0:
            raise InputError("--concurrency: give 1 or more; --retries: 0 or more")


class EndpointAnswerer:
    """Greedy answers of an endpoint; a prediction has ``samples`` only.

    An answer that the endpoint leaves out (``content: null``) is kept as a null prediction.
    """

    def __init__(self, config: EndpointConfig, max_new_tokens: int) -> None:
        self.config = config
        self.max_new_tokens = max_new_tokens
        self.identity = {
            "endpoint": config.url,
            "model": config.model,
            "api": config.api,
            "max_new_tokens": max_new_tokens,
        }

    def answer(self, probes: list[Line]) -> Iterator[dict[str, Any]]:
        """Yield one prediction a probe, in order, whatever order they are answered in.

        The server always has as many requests as it may, also while an early one is slow.

        Raises:
            InputError: the endpoint fails for good.
        """
        with asyncio.Runner() as runner:
            client = runner.run(self._open())
            waiting: deque[tuple[str, asyncio.Task[str | None]]] = deque()
            try:
                for where, probe in probes:
                    asking = client.ask(self._payload(where, probe))
                    waiting.append((where, runner.get_loop().create_task(asking)))
                    if len(waiting) == _AHEAD * self.config.concurrency:
                        yield self._next(waiting, runner)
                while waiting:
                    yield self._next(waiting, runner)
            finally:
                for _, task in waiting:
                    task.cancel()
                runner.run(client.close())

    async def _open(self) -> "_Client":
        path = "completions" if self.config.api == "completions" else "chat/completions"
        return _Client(f"{self.config.url.rstrip('/')}/{path}", self.config)

    def _next(
        self, waiting: deque[tuple[str, asyncio.Task[str | None]]], runner: asyncio.Runner
    ) -> dict[str, Any]:
        where, task = waiting.popleft()
        try:
            return {"samples": [runner.run(_result(task))]}
        except FailedCallError as error:
            raise InputError(
                f"{where}: {self.config.url} failed: {error.message}; answers so far are kept, the "
                "same command continues from here"
            ) from error

    def _payload(self, where: str, probe: dict[str, Any]) -> dict[str, Any]:
        settings = {
            "model": self.config.model,
            "max_tokens": self.max_new_tokens,
            "temperature": 0.0,
        }
        if self.config.api == "completions":
            return {"prompt": probe["prompt"], **settings}
        message = {"role": "user", "content": user_message(where, probe)}
        return {"messages": [message], **settings}


class _Client:
    """Posts to one address, over kept connections.

    aiohttp needs a fraction of the CPU time that the OpenAI client takes for a request.
    """

    def __init__(self, url: str, config: EndpointConfig) -> None:
        key = os.environ.get("OPENAI_API_KEY", "none")
        self._url = url
        self._retries = config.retries
        self._redact = Redactor(key)
        self._free = asyncio.Semaphore(config.concurrency)
        secure = ssl.create_default_context()
        secure.load_verify_locations(certifi.where())
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=secure),
            headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
            timeout=aiohttp.ClientTimeout(_TIMEOUT_SECONDS),
            trust_env=True,
        )

    async def ask(self, payload: dict[str, Any]) -> str | None:
        """Return the text of one answer.

        Raises:
            FailedCallError: the last try failed, or no other would help.
        """
        async with self._free:
            for attempt in itertools.count(1):
                try:
                    return _text_of(await self._post(payload))
                except FailedCallError as failure:
                    if not failure.retry or failure.hopeless or attempt > self._retries:
                        raise
                    wait = max(backoff(attempt, _FIRST_WAIT_SECONDS), failure.wait_seconds)
                await asyncio.sleep(wait)
        raise AssertionError("the last try returns or raises")

    async def _post(self, payload: dict[str, Any]) -> str:
        try:
            async with self._session.post(self._url, data=json.dumps(payload).encode()) as response:
                body = self._redact.body((await response.read()).decode("utf-8", "replace"))
                if response.status != 200:
                    raise status_failure(response.status, body, response.headers, self._redact)
                return body
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise connection_failure(error, self._redact) from error

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


async def _result(task: "asyncio.Task[str | None]") -> str | None:
    return await task


def _text_of(body: str) -> str | None:
    """Return the text of a completion, or of a chat completion.

    Raises:
        FailedCallError: the reply is neither.
    """
    try:
        choice = json.loads(body)["choices"][0]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
    except (ValueError, RecursionError, KeyError, IndexError, TypeError) as error:
        raise FailedCallError(f"the reply is no completion: {body:.120}", retry=True) from error
    if text is not None and not isinstance(text, str):
        raise FailedCallError(f"the reply's text is {text!r:.60}", retry=True)
    return text


def user_message(where: str, probe: dict[str, Any]) -> str:
    """Return a probe's prompt without the marks of its template.

    The probe's field ``user`` says where the message is. Published probes have none: theirs are
    FILM's marks, and a fixed start of the answer after them is kept.

    Raises:
        InputError: ``user`` is no span of the prompt.
    """
    prompt: str = probe["prompt"]
    if "user" not in probe:
        before, after = FILM.user_marks
        asked, mark, answer_start = prompt.rpartition(after)
        return asked.removeprefix(before) + answer_start if mark else prompt
    match probe["user"]:
        case [int(start), int(end)] if 0 <= start <= end <= len(prompt):
            return prompt[start:end]
    raise InputError(
        f"{where}: field 'user' must be [start, end] in the prompt's {len(prompt)} characters, "
        f"found {probe['user']!r:.60}"
    )
