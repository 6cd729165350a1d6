"""Reads the server's side of a reply: the chat completion around what the model wrote."""

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.llm.spending import Price, Usage

_FORM_WORDS = ("response_format", "json_schema", "guided_json", "structured output")
_THOUGHT = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)


@dataclass(frozen=True)
class Reply:
    """The result of a request: ``text``, or the ``problem`` if there is none.

    ``usage`` is None where the server states none. ``cost`` is in US dollars. ``given_up``: there
    was no reply, and the next run asks again.
    """

    text: str
    problem: str | None
    usage: Usage | None = None
    cost: float = 0.0
    given_up: bool = False


def checked_envelope(body: str) -> dict[str, Any]:
    """Return a chat completion as the server sent it.

    Raises:
        FailedCallError: it is cut off or malformed; it is worth another try and perhaps billed.
    """
    try:
        envelope = json.loads(body)
        read_reply(envelope)
    except _MALFORMED as error:
        message = f"unreadable reply ({type(error).__name__}: {str(error)[:80]}): {body[:80]!r}"
        raise FailedCallError(message, retry=True, perhaps_billed=True) from error
    return envelope  # type: ignore[no-any-return]


_MALFORMED = (
    ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, RecursionError,
)  # fmt: skip


def read_reply(envelope: dict[str, Any]) -> Reply:
    """Read a chat completion; what a reasoning model thought aloud before its answer is left out.

    Raises:
        Any of ValueError, KeyError, IndexError, TypeError, AttributeError: it is malformed.
    """
    choice = envelope["choices"][0]
    message, problem = choice["message"], None
    text = _text_of(message.get("content"))
    if "<think>" in text:
        text = _THOUGHT.sub("", text, count=1)
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        problem = "the model refused"
    elif choice.get("finish_reason") == "length":
        problem = "reply cut off at max_answer_tokens"
    elif not text.strip():
        problem = "empty reply"
    return Reply(text, problem, _usage_of(envelope.get("usage")))


def priced_reply(envelope: dict[str, Any], price: Price, worst_cost: float) -> Reply:
    """Read a chat completion and its cost; where the server states no usage, it is the worst."""
    reply = read_reply(envelope)
    cost = worst_cost if reply.usage is None else price.cost(reply.usage)
    return replace(reply, cost=cost)


def is_about_form(message: str) -> bool:
    """Whether a refusal says that the server takes no JSON schema."""
    return any(word in message for word in _FORM_WORDS)


def _text_of(content: Any) -> str:
    """Return a message's text, which some servers send in parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text") or "") for part in content)
    return str(content or "")


def _usage_of(usage: Any) -> Usage | None:
    """Read the token counts; None where they are absent or make no sense."""
    if not isinstance(usage, dict):
        return None
    prompt, completion = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    if prompt is None or completion is None:
        return None
    details = usage.get("prompt_tokens_details")
    cached = _count(details, "cached_tokens") if isinstance(details, dict) else None
    return Usage(prompt, completion, min(cached or 0, prompt))


def _count(counts: dict[str, Any], name: str) -> int | None:
    value = counts.get(name)
    return value if type(value) is int and 0 <= value < 1 << 40 else None
