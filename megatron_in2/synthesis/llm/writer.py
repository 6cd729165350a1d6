"""The question writer behind the OpenAI protocol: prompts out, drafts and verdicts in."""

import os
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import openai

from megatron_in2.errors import InputError
from megatron_in2.synthesis.llm.batch.api import BatchApi
from megatron_in2.synthesis.llm.batch.transport import BatchTransport
from megatron_in2.synthesis.llm.calls import JournalledCalls
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.llm.decisions import JournalledDecisions, conditions_of
from megatron_in2.synthesis.llm.dialect import Dialect
from megatron_in2.synthesis.llm.envelopes import Reply
from megatron_in2.synthesis.llm.failures import Redactor
from megatron_in2.synthesis.llm.journal.journal import Journal
from megatron_in2.synthesis.llm.journal.ledger import Ledger
from megatron_in2.synthesis.llm.journal.upgrade import FROM_VERSION_1
from megatron_in2.synthesis.llm.online.endpoint import ChatEndpoint
from megatron_in2.synthesis.llm.online.transport import OnlineTransport
from megatron_in2.synthesis.llm.prompts import load_prompts, version_1_prompts
from megatron_in2.synthesis.llm.replies import (
    SHOWN_CHARACTERS,
    read_draft,
    read_object,
    read_question,
)
from megatron_in2.synthesis.llm.requests import RequestMaker
from megatron_in2.synthesis.llm.spending import is_own_server, load_price
from megatron_in2.synthesis.llm.transport import Request, Transport
from megatron_in2.synthesis.quality.config import CheckerConfig
from megatron_in2.synthesis.questions.writer import Draft, Evidence
from megatron_in2.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class LanguageModel:
    """One model: what makes requests to it, and what has them answered."""

    requests: RequestMaker
    calls: JournalledCalls


class LanguageModelWriter:
    """Asks a language model, and another one to check it.

    Args:
        model: writes and rewords questions, and answers them from memory.
        checker: says what is right and what is supported; None: the same model.
        ledger: keeps what was paid for; closed with the writer.
    """

    is_paid = True

    def __init__(self, model: LanguageModel, checker: LanguageModel | None, ledger: Ledger) -> None:
        self.window = model.calls.window
        self.gives_quotes = model.requests.prompts.asks_for_quotes("integration")
        self._model = model
        self._checker = checker or model
        self._all_calls = [model.calls] if checker is None else [model.calls, checker.calls]
        self._ledger = ledger
        self._used_cost = 0.0
        self._unanswered = 0
        self._decisions: JournalledDecisions | None = None

    async def write(self, evidence: Evidence) -> Draft:
        reply = await self._ask(question_request(self._model.requests, evidence), self._model)
        if reply.problem:
            return Draft(problem=reply.problem, reply=reply.text[:SHOWN_CHARACTERS])
        return read_draft(reply.text)

    async def answer_from_memory(self, question: str) -> str | None:
        request = self._model.requests.make("closed_book", question=question)
        reply = await self._ask(request, self._model)
        text = reply.text.strip()
        return None if reply.problem or text.strip(".").upper() == "UNKNOWN" else text

    async def reword(self, evidence: Evidence, draft: Draft, avoided: tuple[str, ...]) -> Draft:
        request = self._model.requests.make(
            "reword",
            context=evidence_text(evidence),
            question=draft.question,
            answer=draft.answer,
            words=", ".join(avoided),
        )
        reply = await self._ask(request, self._model)
        if reply.problem:
            return Draft(problem=reply.problem, reply=reply.text[:SHOWN_CHARACTERS])
        return read_question(reply.text)

    async def is_right(self, draft: Draft, guess: str) -> bool:
        request = self._checker.requests.make(
            "judge", question=draft.question, answer=draft.answer, guess=guess
        )
        return await self._says(request, "correct")

    async def supports(self, evidence: Evidence, draft: Draft) -> bool:
        request = self._checker.requests.make(
            "verify",
            context=evidence_text(evidence),
            question=draft.question,
            answer=draft.answer,
        )
        return await self._says(request, "supported")

    async def _says(self, request: Request, field: str) -> bool:
        """Whether the checker's reply has a field that is true; an unreadable one has not."""
        reply = await self._ask(request, self._checker)
        return (read_object(reply.text) or {}).get(field) is True

    async def _ask(self, request: Request, model: LanguageModel) -> Reply:
        reply = await model.calls.ask(request)
        self._used_cost += reply.cost
        self._unanswered += reply.given_up
        return reply

    def decisions(self, conditions: str) -> JournalledDecisions:
        model, checker = self._model.requests, self._checker.requests
        named = conditions_of(conditions, model.asks_as(), checker.asks_as())
        self._decisions = JournalledDecisions(self._ledger, lambda: self._unanswered, named)
        return self._decisions

    def used_cost(self) -> float | None:
        return self._used_cost

    def cost(self) -> float | None:
        return self._ledger.spent

    def calls(self) -> dict[str, Any] | None:
        return asdict(self._ledger.journal.summary())

    def stop(self) -> None:
        for calls in self._all_calls:
            calls.stop()

    async def close(self) -> None:
        for calls in self._all_calls:
            await calls.close()
        if self._decisions is not None:
            with suppress(InputError):  # they only save time; what stopped the run is known
                await self._decisions.flush()
        await self._ledger.close()


def question_request(requests: RequestMaker, evidence: Evidence) -> Request:
    """Return the request for a question about evidence."""
    if evidence.has_pieces:
        return requests.make(evidence.kind, pieces=evidence_text(evidence))
    return requests.make("fine_grained", context=evidence.texts[0])


def evidence_text(evidence: Evidence) -> str:
    """Return evidence as a prompt shows it: one text, or numbered pieces."""
    if len(evidence.texts) == 1 and not evidence.has_pieces:
        return evidence.texts[0]
    pieces = enumerate(evidence.texts, start=1)
    return "\n\n".join(f"Piece {number}:\n{text}" for number, text in pieces)


def build_language_model_writer(
    config: OpenAIConfig,
    batch: bool,
    tokenizer: Tokenizer,
    journal_path: Path,
    max_cost: float | None,
    checker: CheckerConfig | None = None,
) -> LanguageModelWriter:
    """Open the journal and the connection.

    Args:
        config: the openai section.
        batch: use the Batch API.
        tokenizer: counts prompt tokens.
        journal_path: the run's journal.
        max_cost: US dollars that all runs with this journal may spend; None is no limit.
        checker: the model that checks; None: the one that writes.

    Raises:
        InputError: no key, no price, a bad prompt, or a journal in use.
    """
    key = api_key(config)
    checking = checking_config(config, checker)
    check_key = "" if checking is None else api_key(checking)
    if checking is not None:  # a missing price is known before the journal is made
        load_price(checking.model, checking.prices, False, checking.base_url)
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
    model = LanguageModel(requests, JournalledCalls(journal, transport, price))
    if checking is None:
        return LanguageModelWriter(model, None, ledger)
    requests = RequestMaker(checking, prompts, tokenizer)
    return LanguageModelWriter(model, _online_model(checking, check_key, requests, ledger), ledger)


def _online_model(
    config: OpenAIConfig, key: str, requests: RequestMaker, ledger: Ledger
) -> LanguageModel:
    """Return a second model, asked one by one, that shares the first one's journal and budget."""
    price = load_price(config.model, config.prices, False, config.base_url)
    endpoint = ChatEndpoint(config.base_url, key, config.timeout_seconds, Redactor(key))
    dialect = Dialect(ledger.journal, ledger.commits, f"{config.base_url} {config.model}")
    transport = OnlineTransport(config, endpoint, ledger, price, dialect)
    return LanguageModel(requests, JournalledCalls(ledger.journal, transport, price))


def checking_config(config: OpenAIConfig, checker: CheckerConfig | None) -> OpenAIConfig | None:
    """Return the settings of the model that checks; None where it is the one that writes."""
    if checker is None or not checker.model:
        return None
    return replace(
        config,
        model=checker.model,
        base_url=checker.base_url,
        api_key_variable=checker.api_key_variable,
        temperature=checker.temperature,
        max_answer_tokens=checker.max_answer_tokens,
        reasoning_effort=checker.reasoning_effort,
        extra_body=checker.extra_body,
    )


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
