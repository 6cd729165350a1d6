"""What a run will cost, without a single call: ``--dry-run``."""

import io
import itertools
from dataclasses import dataclass
from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import EVIDENCE_KINDS, SynthesisConfig
from megatron_in2.synthesis.evidence import EvidenceWalk
from megatron_in2.synthesis.llm.journal import Journal, JournalSummary
from megatron_in2.synthesis.llm.spending import Price, load_price
from megatron_in2.synthesis.llm.writer import Requests
from megatron_in2.synthesis.pipeline import RunOptions, journal_path, only_run, prepare
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.store_stage import build_store
from megatron_in2.synthesis.writer import Evidence
from megatron_in2.tokenizers.base import Tokenizer

SAMPLED_PROMPTS = 2_000  # of each kind; the rest is scaled


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
    """Estimate a run of a paid writer; the segment store is made, or used if it stands.

    Prompt tokens are counted by the run's tokenizer over up to 2,000 prompts of each kind.
    The reply's length is the mean of the journal's answers, or openai.expected_answer_tokens.

    Raises:
        InputError: the writer is not a paid one, or what a run would refuse.
    """
    if config.writer == "extractive":
        raise InputError("--dry-run: writer=extractive costs nothing: just run it")
    output, tokenizer = prepare(config, output, options)
    price = load_price(config.openai.model, config.openai.prices, config.writer == "openai-batch")
    with only_run(output):
        store = build_store(config, options.shard, tokenizer, output, options.workers)
        so_far = _so_far(journal_path(output))
        answer_tokens = config.openai.expected_answer_tokens
        if so_far is not None and so_far.answers:
            answer_tokens = round(so_far.completion_tokens / so_far.answers)
        walk = EvidenceWalk(store, config.composition.max_tokens, config.seed)
        requests, prompt_tokens = 0, 0
        for kind in EVIDENCE_KINDS:
            wanted = options.shard.part_of(config.mixture.counts()[kind])
            candidates = walk.candidates(kind, Rejects(io.StringIO()))
            sampled = list(itertools.islice(candidates, min(wanted, SAMPLED_PROMPTS)))
            if sampled:
                counts = [_prompt_tokens(config, tokenizer, evidence) for evidence in sampled]
                prompt_tokens += round(sum(map(sum, counts)) * wanted / len(sampled))
                requests += len(counts[0]) * wanted
    total_answers = requests * answer_tokens
    cost = price.cost(prompt_tokens, total_answers)
    return Estimate(requests, prompt_tokens, total_answers, cost, price, so_far)


def _prompt_tokens(config: SynthesisConfig, tokenizer: Tokenizer, evidence: Evidence) -> list[int]:
    """Return the prompt tokens of each request that one piece of evidence takes."""
    requests = Requests(config.openai, tokenizer)
    counts = [requests.tokens(requests.write(evidence))]
    if config.filters.closed_book:
        counts.append(requests.tokens(requests.closed_book("")) + 32)  # a question's tokens
    if config.filters.verify:
        pair = config.openai.expected_answer_tokens
        counts.append(requests.tokens(requests.verify(evidence, "", "")) + pair)
    return counts


def _so_far(path: Path) -> JournalSummary | None:
    if not path.exists():
        return None
    journal = Journal(path)
    try:
        return journal.summary()
    finally:
        journal.close()
