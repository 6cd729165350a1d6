"""What sends requests to a language model: one by one (online) or in batches (batch)."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.journal.journal import Refusal


@dataclass(frozen=True)
class Request:
    """One request to a language model.

    Args:
        key: its name in the journal.
        payload: the body of the call, the reply's form included.
        count_tokens: counts the prompt's tokens, which takes longer than all else: only called
            where the request is really sent.
        max_answer_tokens: the longest reply.
        earlier_keys: names under which earlier versions may have asked the same.
    """

    key: bytes
    payload: dict[str, Any]
    count_tokens: Callable[[], int]
    max_answer_tokens: int
    earlier_keys: tuple[bytes, ...] = ()


class Transport(Protocol):
    """Has requests answered; each reply is in the journal before it is returned."""

    window: int  # how many requests are worth having under way

    async def send(self, request: Request) -> Reply:
        """Return the reply to a request that has no answer yet.

        Raises:
            InputError: no request may be sent any more: the key, the quota, the money, the server.
            StoppedError: the run is ending.
        """

    def expected(self, key: bytes) -> Awaitable[Reply] | None:
        """Return the reply that an earlier run has already paid for and that is still to come."""

    def stop(self) -> None:
        """Send nothing new."""

    async def close(self) -> None:
        """Close connections."""


class StoppedError(Exception):
    """A request was not sent since the run is ending."""


def given_up(refusal: Refusal) -> Reply:
    """Return a reply whose ``problem`` says that the request was given up."""
    if refusal.status is None:
        return Reply("", "given up: no reply came", given_up=True)
    refused = 400 <= refusal.status < 500 and refusal.status != 429
    what = "the server refused it" if refused else "given up: the server failed each time"
    return Reply("", f"{what} (HTTP {refusal.status})", given_up=True)
