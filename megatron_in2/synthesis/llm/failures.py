"""What went wrong with a call, and whether and when it is worth another try."""

import asyncio
import email.utils
import json
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import openai

from megatron_in2.errors import InputError

MAX_BACKOFF_SECONDS = 60.0
MAX_MESSAGE_CHARACTERS = 300
TOO_MANY_REQUESTS = 429
TOO_LARGE = 413
_RETRIED = (408, 409, 425, 429)  # and all of 5xx
_KEY_PATTERN = re.compile(r"\b(?:sk|key)-[A-Za-z0-9_*-]{8,}|(?<=Bearer )\S+")
_LEAST_KEY_CHARACTERS = 8  # a shorter one, such as "EMPTY", is no secret

Result = TypeVar("Result")


@dataclass(eq=False)
class FailedCallError(Exception):
    """An attempt that brought no usable reply.

    Args:
        message: what went wrong, one line.
        retry: whether another try may help; else the request itself is refused.
        perhaps_billed: whether the server may have done, and billed, the work.
        wait_seconds: how long the server asks to wait.
        status: the HTTP status, where there was one.
        hopeless: every request would fail like this: a bad key, no quota.
    """

    message: str
    retry: bool
    perhaps_billed: bool = False
    wait_seconds: float = 0.0
    status: int | None = None
    hopeless: bool = False

    @property
    def is_limit(self) -> bool:
        """Whether the request was one too many just then."""
        return self.status == TOO_MANY_REQUESTS and not self.hopeless


class Redactor:
    """Takes the API key, and what looks like one, out of every text that may be written.

    Args:
        key: the key; one too short to be a secret is left alone.
    """

    def __init__(self, key: str) -> None:
        self._key = key if len(key) >= _LEAST_KEY_CHARACTERS else None

    def __call__(self, text: str) -> str:
        """Return a message without keys, encodable in UTF-8."""
        text = _KEY_PATTERN.sub("[key]", self.body(text))
        return text.encode("utf-8", "backslashreplace").decode()

    def body(self, text: str) -> str:
        """Return a reply's body without the key."""
        return text.replace(self._key, "[key]") if self._key and self._key in text else text


def status_failure(
    status: int, body: str, headers: Mapping[str, str], redact: Redactor
) -> FailedCallError:
    """Read a reply whose status is not 200."""
    text, code = _error_of(body)
    text = redact(text)
    if status == 401 or code == "insufficient_quota":
        message = (
            f"the server refuses the run with HTTP {status}: {text}; check the key, its "
            "quota, openai.model and openai.base_url"
        )
        return FailedCallError(message, retry=False, status=status, hopeless=True)
    retry = status in _RETRIED or status >= 500
    return FailedCallError(f"HTTP {status}: {text}", retry, False, _retry_after(headers), status)


def connection_failure(error: Exception, redact: Redactor) -> FailedCallError:
    """Read an error of the connection: one that was never made carried no request."""
    never_made = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError)
    text = redact(" ".join(str(error).split()))[:MAX_MESSAGE_CHARACTERS]
    message = f"{type(error).__name__}{': ' if text else ''}{text}"
    return FailedCallError(message, retry=True, perhaps_billed=not never_made)


def client_failure(error: openai.OpenAIError, redact: Redactor) -> FailedCallError:
    """Read an error of the OpenAI client."""
    if isinstance(error, openai.APIStatusError):
        response = error.response
        return status_failure(error.status_code, response.text, response.headers, redact)
    cause = type(error.__cause__).__name__ if error.__cause__ else type(error).__name__
    text = redact(" ".join(str(error).split()))[:MAX_MESSAGE_CHARACTERS]
    # A connection that was never made carried no request; any other may have.
    refused = cause in ("ConnectError", "ConnectTimeout")
    return FailedCallError(f"{text} ({cause})", retry=True, perhaps_billed=not refused)


async def with_retries(
    call: Callable[[], Awaitable[Result]],
    max_attempts: int,
    first_backoff_seconds: float,
    redact: Redactor,
    is_final: Callable[[FailedCallError], bool] = lambda failure: not failure.retry,
) -> Result:
    """Await a call that costs nothing, such as a look at a batch, until it succeeds.

    Raises:
        InputError: it never does, or the server refuses the key.
        FailedCallError: a failure that is final, such as a refusal of this call.
    """
    for attempt in range(1, max_attempts + 1):
        try:
            return await call()
        except openai.OpenAIError as error:
            failure = client_failure(error, redact)
            if failure.hopeless:
                raise InputError(failure.message) from error
            if is_final(failure):
                raise failure from error
            if attempt == max_attempts:
                raise InputError(
                    f"the server failed {attempt} times, lastly: {failure.message}; run again to "
                    "go on"
                ) from error
        await asyncio.sleep(max(backoff(attempt, first_backoff_seconds), failure.wait_seconds))
    raise AssertionError("max_attempts is 1 or more")


def backoff(attempt: int, first_seconds: float) -> float:
    """Return the wait behind the n-th failed try: doubled each time, with jitter."""
    doubled: float = first_seconds * 2 ** min(attempt - 1, 30)
    return min(doubled, MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1)


def _error_of(body: str) -> tuple[str, str | None]:
    """Return an error's message and its code, wherever the server put them."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    error = value.get("error", value) if isinstance(value, dict) else None
    if isinstance(error, dict):
        text = error.get("message") or error.get("detail") or body
        return _shortened(str(text)), error.get("code") or error.get("type")
    return _shortened(str(error or body)), None


def _shortened(text: str) -> str:
    return " ".join(text.split())[:MAX_MESSAGE_CHARACTERS]


def _retry_after(headers: Mapping[str, str]) -> float:
    """Read ``Retry-After`` (seconds or a date) and OpenAI's ``retry-after-ms``."""
    try:
        if "retry-after-ms" in headers:
            return _bounded(float(headers["retry-after-ms"]) / 1000)
        value = headers.get("retry-after", "0")
        if value.replace(".", "", 1).isdigit():
            return _bounded(float(value))
        date = email.utils.parsedate_to_datetime(value)
        return _bounded(date.timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):  # nobody can read it: it asks for nothing
        return 0.0


def _bounded(seconds: float) -> float:
    """Return a wait that makes sense: an hour at most, whatever the server asks for."""
    return min(max(seconds, 0.0), 3600.0)
