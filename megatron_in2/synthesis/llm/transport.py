"""What sends requests to a language model: one by one (online) or in batches (batch)."""

from typing import Any, Protocol


class Transport(Protocol):
    """Has requests answered; each reply stands in the journal before it is returned."""

    window: int

    async def send(self, key: str, payload: dict[str, Any], prompt_tokens: int) -> dict[str, Any]:
        """Return the reply to a request that has no answer yet."""

    def stop(self) -> None:
        """Send nothing new."""

    async def close(self) -> None:
        """Close connections."""


class StoppedError(Exception):
    """A request was not sent since the run is ending."""
