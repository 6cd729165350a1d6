"""What went wrong with a call, and whether and when it is worth another try."""

import asyncio
import email.utils
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import openai

from megatron_in2.errors import InputError

MAX_BACKOFF_SECONDS = 60.0
_RETRIED = (408, 409, 425, 429)  # and all of 5xx
_HOPELESS = (401, 403, 404)  # the same for every request: the run stops

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
        hopeless: it would befall every request: a bad key, no quota, an unknown model.
    """

    message: str
    retry: bool
    perhaps_billed: bool = False
    wait_seconds: float = 0.0
    status: int | None = None
    hopeless: bool = False


def as_failure(error: openai.OpenAIError) -> FailedCallError:
    """Read a client error."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, openai.APIStatusError):
        status = error.status_code
        if status in _HOPELESS or error.code == "insufficient_quota":
            message = (
                f"the server refuses the run with HTTP {status}: {text}; check the key, its "
                "quota, openai.model and openai.base_url"
            )
            return FailedCallError(message, retry=False, status=status, hopeless=True)
        retry = status in _RETRIED or status >= 500
        return FailedCallError(text, retry, False, _retry_after(error.response.headers), status)
    if isinstance(error, openai.APIConnectionError):
        # A connection that was never made carried no request; any other may have.
        refused = type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout")
        cause = f"{text} ({type(error.__cause__).__name__})"
        return FailedCallError(cause, retry=True, perhaps_billed=not refused)
    return FailedCallError(text, retry=True, perhaps_billed=True)


async def with_retries(
    call: Callable[[], Awaitable[Result]], max_attempts: int, first_backoff_seconds: float
) -> Result:
    """Await a call that costs nothing, such as a look at a batch, until it succeeds.

    Raises:
        InputError: it never does, or the server refuses.
    """
    for attempt in range(1, max_attempts + 1):
        try:
            return await call()
        except openai.OpenAIError as error:
            failure = as_failure(error)
            if failure.hopeless:
                raise InputError(failure.message) from error
            if not failure.retry or attempt == max_attempts:
                raise InputError(
                    f"the server failed after {attempt} tries: {failure.message}; run again to "
                    "go on"
                ) from error
        await asyncio.sleep(max(backoff(attempt, first_backoff_seconds), failure.wait_seconds))
    raise AssertionError("max_attempts is 1 or more")


def backoff(attempt: int, first_seconds: float) -> float:
    """Return the wait behind the n-th failed try: doubled each time, with jitter."""
    doubled: float = first_seconds * 2 ** (attempt - 1)
    return min(doubled, MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Read ``Retry-After`` (seconds or a date) and OpenAI's ``retry-after-ms``."""
    try:
        if "retry-after-ms" in headers:
            return max(float(headers["retry-after-ms"]) / 1000, 0.0)
        value = headers.get("retry-after", "0")
        if value.replace(".", "", 1).isdigit():
            return max(float(value), 0.0)
        date = email.utils.parsedate_to_datetime(value)
        wait: float = date.timestamp() - time.time()
        return max(wait, 0.0)
    except (ValueError, TypeError):  # a header that nobody can read asks for nothing
        return 0.0
