"""The question writer behind the OpenAI protocol: prompts out, drafts and verdicts in."""

import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.batch import BatchTransport
from megatron_in2.synthesis.llm.calls import JournalledCalls
from megatron_in2.synthesis.llm.journal import Journal
from megatron_in2.synthesis.llm.ledger import Ledger
from megatron_in2.synthesis.llm.online import OnlineTransport
from megatron_in2.synthesis.llm.prompts import Prompts, fill, load_prompts
from megatron_in2.synthesis.llm.replies import Reply, read_draft, read_object
from megatron_in2.synthesis.llm.spending import load_price
from megatron_in2.synthesis.llm.transport import Transport
from megatron_in2.synthesis.writer import Draft, Evidence
from megatron_in2.tokenizers.base import Tokenizer

PLAIN_TEXT = "the server takes no JSON schema"  # a note in the journal
_STRING = {"type": "string"}
_PAIR = {"question": _STRING, "answer": _STRING}
_QUOTE = {"piece": {"type": "integer"}, "quote": _STRING}


def _object(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


_SCHEMAS = {
    "fine_grained": _object(_PAIR),
    "integration": _object({**_PAIR, "quotes": {"type": "array", "items": _object(_QUOTE)}}),
    "verify": _object({"supported": {"type": "boolean"}}),
}


class Requests:
    """Turns evidence into payloads; the same evidence and settings give the same payload.

    Args:
        config: the openai section.
        tokenizer: counts prompt tokens; OpenAI's own counts differ by some percent.
    """

    def __init__(self, config: OpenAIConfig, tokenizer: Tokenizer) -> None:
        self._config = config
        self._prompts: Prompts = load_prompts(config.prompts)
        self._tokenizer = tokenizer

    def write(self, evidence: Evidence) -> str:
        """Return the prompt that asks for a question."""
        if evidence.kind == "integration":
            return fill(self._prompts.integration, pieces=_numbered(evidence))
        return fill(self._prompts.fine_grained, context=evidence.texts[0])

    def closed_book(self, question: str) -> str:
        """Return the prompt that asks without the evidence."""
        return fill(self._prompts.closed_book, question=question)

    def verify(self, evidence: Evidence, question: str, answer: str) -> str:
        """Return the prompt that asks whether the evidence supports an answer."""
        context = evidence.texts[0] if len(evidence.texts) == 1 else _numbered(evidence)
        return fill(self._prompts.verify, context=context, question=question, answer=answer)

    def tokens(self, prompt: str) -> int:
        """Estimate a prompt's tokens, the chat format's few included."""
        return len(self._tokenizer.encode(prompt)) + 8

    def payload(self, prompt: str, schema: str | None) -> dict[str, Any]:
        """Return what is sent for a prompt; ``schema`` names the form of the reply."""
        payload: dict[str, Any] = {
            "model": self._config.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": self._config.max_answer_tokens,
        }
        if self._config.temperature is not None:
            payload["temperature"] = self._config.temperature
        if schema is not None:
            form = {"name": schema, "strict": True, "schema": _SCHEMAS[schema]}
            payload["response_format"] = {"type": "json_schema", "json_schema": form}
        return payload


class LanguageModelWriter:
    """Asks a language model.

    Args:
        config: the openai section.
        requests: makes payloads.
        ledger: keeps what was paid for; its journal is closed with the writer.
        transport: has requests answered.
    """

    def __init__(
        self, config: OpenAIConfig, requests: Requests, ledger: Ledger, transport: Transport
    ) -> None:
        self.window = transport.window
        self._requests = requests
        self._ledger = ledger
        self._transport = transport
        self._calls = JournalledCalls(ledger.journal, transport)
        self._structured = config.structured_output and ledger.journal.noted(PLAIN_TEXT) is None

    async def write(self, evidence: Evidence) -> Draft:
        form = "integration" if evidence.kind == "integration" else "fine_grained"
        reply = await self._ask(self._requests.write(evidence), form)
        return Draft(problem=reply.problem) if reply.problem else read_draft(reply.text)

    async def answer_from_memory(self, question: str) -> str | None:
        reply = await self._ask(self._requests.closed_book(question), None)
        text = reply.text.strip()
        return None if reply.problem or text.strip(".").upper() == "UNKNOWN" else text

    async def supports(self, evidence: Evidence, draft: Draft) -> bool:
        prompt = self._requests.verify(evidence, draft.question, draft.answer)
        reply = await self._ask(prompt, "verify")
        return (read_object(reply.text) or {}).get("supported") is True

    def cost(self) -> float | None:
        return self._ledger.spent

    def calls(self) -> dict[str, Any] | None:
        return asdict(self._ledger.journal.summary())

    def stop(self) -> None:
        self._transport.stop()

    async def close(self) -> None:
        await self._transport.close()
        self._ledger.journal.close()

    async def _ask(self, prompt: str, form: str | None) -> Reply:
        """Ask in the wanted form; a server that knows no schemas is asked in plain text."""
        tokens = self._requests.tokens(prompt)
        if form is not None and self._structured:
            reply = await self._calls.ask(self._requests.payload(prompt, form), tokens)
            if not reply.form_refused:
                return reply
            self._structured = False
            self._ledger.journal.note(PLAIN_TEXT, "yes")
        return await self._calls.ask(self._requests.payload(prompt, None), tokens)


def build_language_model_writer(
    config: OpenAIConfig,
    batch: bool,
    tokenizer: Tokenizer,
    journal_path: Path,
    max_cost: float | None,
) -> LanguageModelWriter:
    """Open the journal and the connection.

    Args:
        config: the openai section.
        batch: use the Batch API.
        tokenizer: counts prompt tokens.
        journal_path: the run's journal.
        max_cost: US dollars that all runs with this journal may spend; None is no limit.

    Raises:
        InputError: no key, no price, a bad prompt, or a journal in use.
    """
    key = os.environ.get(config.api_key_variable)
    if not key:
        raise InputError(
            f"the environment variable {config.api_key_variable} holds no API key: set it, or "
            "name another in openai.api_key_variable (a server of your own takes any word)"
        )
    price = load_price(config.model, config.prices, batch)
    requests = Requests(config, tokenizer)
    ledger = Ledger(Journal(journal_path), price, max_cost)
    client = openai.AsyncOpenAI(
        api_key=key,
        base_url=config.base_url,
        timeout=config.timeout_seconds,
        max_retries=0,  # every attempt is journalled
        # A reply sent twice on a connection that is kept would answer the next request.
        default_headers={"Connection": "close"},
    )
    build: Callable[..., Transport] = BatchTransport if batch else OnlineTransport
    return LanguageModelWriter(config, requests, ledger, build(config, client, ledger))


def _numbered(evidence: Evidence) -> str:
    return "\n\n".join(
        f"Piece {number}:\n{text}" for number, text in enumerate(evidence.texts, start=1)
    )
