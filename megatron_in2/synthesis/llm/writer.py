"""The question writer behind the OpenAI protocol: prompts out, drafts and verdicts in."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import openai

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import OpenAIConfig
from megatron_in2.synthesis.llm.batch.api import BatchApi
from megatron_in2.synthesis.llm.batch.transport import BatchTransport
from megatron_in2.synthesis.llm.calls import JournalledCalls
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.failures import Redactor
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.journal.upgrade import FROM_VERSION_1
from megatron_in2.synthesis.llm.online.endpoint import ChatEndpoint
from megatron_in2.synthesis.llm.online.transport import OnlineTransport
from megatron_in2.synthesis.llm.prompts import load_prompts, version_1_prompts
from megatron_in2.synthesis.llm.replies import SHOWN_CHARACTERS, read_draft, read_object
from megatron_in2.synthesis.llm.requests import RequestMaker
from megatron_in2.synthesis.llm.spending import is_own_server, load_price
from megatron_in2.synthesis.llm.transport import Request, Transport
from megatron_in2.synthesis.questions.writer import Draft, Evidence
from megatron_in2.tokenizers.base import Tokenizer


class LanguageModelWriter:
    """Asks a language model.

    Args:
        requests: makes requests.
        calls: has them answered.
        ledger: keeps what was paid for; closed with the writer.
    """

    is_paid = True

    def __init__(self, requests: RequestMaker, calls: JournalledCalls, ledger: Ledger) -> None:
        self.window = calls.window
        self.gives_quotes = requests.prompts.asks_for_quotes("integration")
        self._requests = requests
        self._calls = calls
        self._ledger = ledger
        self._used_cost = 0.0

    async def write(self, evidence: Evidence) -> Draft:
        reply = await self._ask(question_request(self._requests, evidence))
        if reply.problem:
            return Draft(problem=reply.problem, reply=reply.text[:SHOWN_CHARACTERS])
        return read_draft(reply.text)

    async def answer_from_memory(self, question: str) -> str | None:
        reply = await self._ask(self._requests.make("closed_book", question=question))
        text = reply.text.strip()
        return None if reply.problem or text.strip(".").upper() == "UNKNOWN" else text

    async def supports(self, evidence: Evidence, draft: Draft) -> bool:
        request = self._requests.make(
            "verify",
            context=evidence_text(evidence),
            question=draft.question,
            answer=draft.answer,
        )
        reply = await self._ask(request)
        return (read_object(reply.text) or {}).get("supported") is True

    async def _ask(self, request: Request) -> Reply:
        reply = await self._calls.ask(request)
        self._used_cost += reply.cost
        return reply

    def used_cost(self) -> float | None:
        return self._used_cost

    def cost(self) -> float | None:
        return self._ledger.spent

    def calls(self) -> dict[str, Any] | None:
        return asdict(self._ledger.journal.summary())

    def stop(self) -> None:
        self._calls.stop()

    async def close(self) -> None:
        await self._calls.close()
        await self._ledger.close()


def question_request(requests: RequestMaker, evidence: Evidence) -> Request:
    """Return the request for a question about evidence."""
    if evidence.kind == "integration":
        return requests.make("integration", pieces=evidence_text(evidence))
    return requests.make("fine_grained", context=evidence.texts[0])


def evidence_text(evidence: Evidence) -> str:
    """Return evidence as a prompt shows it: one text, or numbered pieces."""
    if len(evidence.texts) == 1 and evidence.kind != "integration":
        return evidence.texts[0]
    pieces = enumerate(evidence.texts, start=1)
    return "\n\n".join(f"Piece {number}:\n{text}" for number, text in pieces)


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
    key = api_key(config)
    prompts = load_prompts(config.prompts)
    price = load_price(config.model, config.prices, batch, config.base_url)
    journal = Journal(journal_path, prompts.joined())
    earlier = version_1_prompts(config.prompts) if journal.noted(FROM_VERSION_1) else None
    requests = RequestMaker(config, prompts, tokenizer, earlier)
    ledger = Ledger(journal, max_cost)
    dialect, redact = Dialect(journal, ledger.commits), Redactor(key)
    transport: Transport
    if batch:
        client = openai.AsyncOpenAI(
            api_key=key,
            base_url=config.base_url,
            timeout=config.timeout_seconds,
            max_retries=0,  # tried again here, patiently
            default_headers={"Connection": "close"},  # the calls are few: no reply is mistaken
        )
        api = BatchApi(config, client, redact)
        transport = BatchTransport(config, api, ledger, price, dialect)
    else:
        endpoint = ChatEndpoint(config.base_url, key, config.timeout_seconds, redact)
        transport = OnlineTransport(config, endpoint, ledger, price, dialect)
    return LanguageModelWriter(requests, JournalledCalls(journal, transport, price), ledger)


def api_key(config: OpenAIConfig) -> str:
    """Return the key; a server of one's own needs none.

    Raises:
        InputError: there is none, or it cannot be sent.
    """
    key = os.environ.get(config.api_key_variable, "").strip()
    if not key and is_own_server(config.base_url):
        return "none"
    if not key or not (key.isascii() and key.isprintable()):
        raise InputError(
            f"the environment variable {config.api_key_variable} holds no API key: set it, or "
            "name another in openai.api_key_variable"
        )
    return key
