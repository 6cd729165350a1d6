"""Reads replies: the server's envelope, and what the model wrote inside it."""

import json
import re
from dataclasses import dataclass
from typing import Any

from megatron_in2.synthesis.llm.failures import FailedCallError
from megatron_in2.synthesis.writer import Citation, Draft

_LABELLED = re.compile(
    r"^\W*question\W*?:\s*(?P<question>.+?)^\W*answer\W*?:\s*(?P<answer>.+?)"
    r"(?=^\W*quotes?\W*?:|\Z)",
    re.IGNORECASE | re.DOTALL | re.MULTILINE,
)
_QUOTE = re.compile(r"\[?(\d+)\]?\s*[:.\-]?\s*[\"“](.+?)[\"”]")
_FORM_WORDS = ("response_format", "json_schema", "guided_json", "structured output")


@dataclass(frozen=True)
class Reply:
    """What a request brought: ``text``, or the ``problem`` that stands in its place.

    ``form_refused``: the server takes no JSON schema, which says nothing about the request.
    """

    text: str
    problem: str | None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    form_refused: bool = False


def checked_envelope(body: str) -> dict[str, Any]:
    """Return a chat completion as the server sent it.

    Raises:
        FailedCallError: it is cut off or malformed; it is worth another try and perhaps billed.
    """
    try:
        envelope = json.loads(body)
        read_reply(envelope)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        message = f"unreadable reply ({type(error).__name__}: {error}): {body[:80]!r}"
        raise FailedCallError(message, retry=True, perhaps_billed=True) from error
    return envelope  # type: ignore[no-any-return]


def refusal_envelope(failure: FailedCallError) -> dict[str, Any]:
    """Return what is journalled where the server refuses one request for good."""
    return {"refused": failure.message, "status": failure.status}


def read_reply(envelope: dict[str, Any]) -> Reply:
    """Read a journalled reply."""
    if "refused" in envelope:
        return Reply(
            "",
            f"the server refused it (HTTP {envelope['status']})",
            form_refused=any(word in envelope["refused"] for word in _FORM_WORDS),
        )
    choice = envelope["choices"][0]
    message, usage = choice["message"], envelope.get("usage") or {}
    text, problem = message.get("content") or "", None
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        problem = "the model refused"
    elif choice.get("finish_reason") == "length":
        problem = "reply cut off at max_answer_tokens"
    elif not text.strip():
        problem = "empty reply"
    prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
    return Reply(str(text), problem, int(prompt), int(completion))


def read_draft(text: str) -> Draft:
    """Read question and answer: JSON, JSON in a code fence, or "Question: ... Answer: ..."."""
    value = read_object(text)
    if value is None:
        return _labelled_draft(text)
    question, answer = value.get("question"), value.get("answer")
    if not isinstance(question, str) or not isinstance(answer, str):
        return Draft(problem="malformed reply")
    quotes = value.get("quotes")
    citations = tuple(
        Citation(quote["piece"] - 1, quote["quote"])
        for quote in (quotes if isinstance(quotes, list) else [])
        if isinstance(quote, dict)
        and type(quote.get("piece")) is int
        and isinstance(quote.get("quote"), str)
    )
    return _draft(question, answer, citations)


def read_object(text: str) -> dict[str, Any] | None:
    """Return the JSON object in a reply, whatever stands around it, or None."""
    start, end = text.find("{"), text.rfind("}")
    try:
        value = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _labelled_draft(text: str) -> Draft:
    match = _LABELLED.search(text)
    if match is None:
        return Draft(problem="malformed reply")
    citations = tuple(
        Citation(int(piece) - 1, quote) for piece, quote in _QUOTE.findall(text[match.end() :])
    )
    return _draft(match["question"], match["answer"], citations)


def _draft(question: str, answer: str, citations: tuple[Citation, ...]) -> Draft:
    if not question.strip() or not answer.strip():
        return Draft(problem="empty question or answer")
    return Draft(question.strip(), answer.strip(), citations)
