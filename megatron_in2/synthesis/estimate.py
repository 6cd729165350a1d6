"""What a run will cost, without a single call: ``--dry-run``."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.synthesis.composition.config import LONG_KINDS, short_questions
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.corpus.store_stage import build_store
from megatron_in2.synthesis.fetch import SharedSources
from megatron_in2.synthesis.llm.journal.journal import Journal, JournalSummary
from megatron_in2.synthesis.llm.prompts import load_prompts
from megatron_in2.synthesis.llm.requests import RequestMaker
from megatron_in2.synthesis.llm.spending import Price, Usage, load_price
from megatron_in2.synthesis.llm.writer import checking_config, evidence_text, question_request
from megatron_in2.synthesis.pipeline import RunOptions, journal_path, only_run, prepare
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.synthesis.questions.writer import Evidence

SAMPLED_PROMPTS = 2_000  # of each kind; the rest is scaled
QUESTION_TOKENS = 32


@dataclass(frozen=True)
class Estimate:
    """Requests, tokens and US dollars that a whole run takes, if no question is dropped."""

    requests: int
    prompt_tokens: int
    answer_tokens: int
    cost: float
    price: Price
    so_far: JournalSummary | None


def estimate_run(config: SynthesisConfig, output: Path, options: RunOptions) -> Estimate:
    """Estimate a run of a paid writer; the segment store is made, or reused if it exists.

    Prompt tokens are counted by the run's tokenizer over up to 2,000 prompts of each kind.
    The reply's length is the mean of the journal's answers, or openai.expected_answer_tokens.

    Raises:
        InputError: the writer is not a paid one, or what a run would refuse.
    """
    if config.writer == "extractive":
        raise InputError("--dry-run: writer=extractive costs nothing: just run it")
    sources = SharedSources(config, output, options.shard)
    output, tokenizer = prepare(config, output, options)
    batch = config.writer == "openai-batch"
    openai = config.openai
    price = load_price(openai.model, openai.prices, batch, openai.base_url)
    checking = checking_config(openai, config.checker)
    check_price = price
    if checking is not None:
        check_price = load_price(checking.model, checking.prices, False, checking.base_url)
    with only_run(output):
        store = build_store(
            config, options.shard, tokenizer, output, options.workers, sources.texts
        )
        so_far = _so_far(journal_path(output))
        answer_tokens = config.openai.expected_answer_tokens
        if so_far is not None and so_far.answers:
            answer_tokens = round(so_far.completion_tokens / so_far.answers)
        requests_of = RequestMaker(config.openai, load_prompts(config.openai.prompts), tokenizer)
        walk = EvidenceWalk(store, config.composition.max_tokens, config.seed)
        written, checks = _Calls(), _Calls()
        parts = {
            kind: options.shard.part_of(count) for kind, count in config.mixture.counts().items()
        }
        for kind in LONG_KINDS:
            wanted = parts[kind] + short_questions(parts)[kind]
            usable = (each for each in walk.candidates(kind) if isinstance(each, Evidence))
            sampled = list(itertools.islice(usable, min(wanted, SAMPLED_PROMPTS)))
            if sampled:
                weight = wanted / len(sampled)
                for evidence in sampled:
                    _count_writing(config, requests_of, evidence, weight, written)
                    _count_checks(config, requests_of, evidence, weight, checks)
    cost = price.cost(written.usage(answer_tokens)) + check_price.cost(checks.usage(answer_tokens))
    requests = written.requests + checks.requests
    usage = _Calls(requests, written.prompt_tokens + checks.prompt_tokens).usage(answer_tokens)
    return Estimate(
        round(requests), usage.prompt_tokens, usage.completion_tokens, cost, price, so_far
    )


@dataclass
class _Calls:
    """Requests to one model, and the tokens of their prompts."""

    requests: float = 0.0
    prompt_tokens: float = 0.0

    def add(self, weight: float, tokens: int) -> None:
        self.requests += weight
        self.prompt_tokens += weight * tokens

    def usage(self, answer_tokens: int) -> Usage:
        return Usage(round(self.prompt_tokens), round(self.requests) * answer_tokens)


def _count_writing(
    config: SynthesisConfig,
    requests: RequestMaker,
    evidence: Evidence,
    weight: float,
    calls: _Calls,
) -> None:
    """Count what one piece of evidence, ``weight`` times, takes of the model that writes."""
    calls.add(weight, question_request(requests, evidence).count_tokens())
    if share := config.questions.low_overlap:
        text = evidence_text(evidence)
        request = requests.make("reword", context=text, question="", answer="", words="")
        calls.add(weight * share, request.count_tokens() + QUESTION_TOKENS)
    if config.filters.closed_book:
        tokens = requests.make("closed_book", question="").count_tokens() + QUESTION_TOKENS
        calls.add(weight, tokens)


def _count_checks(
    config: SynthesisConfig,
    requests: RequestMaker,
    evidence: Evidence,
    weight: float,
    calls: _Calls,
) -> None:
    """Count what one piece of evidence, ``weight`` times, takes of the model that checks."""
    filters, answer_tokens = config.filters, config.openai.expected_answer_tokens
    if filters.closed_book and filters.closed_book_judge == "model":
        request = requests.make("judge", question="", answer="", guess="")
        calls.add(weight, request.count_tokens() + QUESTION_TOKENS + 2 * answer_tokens)
    if filters.verify:
        request = requests.make("verify", context=evidence_text(evidence), question="", answer="")
        calls.add(weight, request.count_tokens() + answer_tokens)


def _so_far(path: Path) -> JournalSummary | None:
    if not path.exists():
        return None
    journal = Journal(path)
    try:
        return journal.summary()
    finally:
        journal.close()
