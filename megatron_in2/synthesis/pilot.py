"""A pilot: a few questions of each kind, to read before the whole is paid for (``--pilot``)."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.composition.config import LONG_KINDS, short_questions
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.corpus.store_stage import build_store
from megatron_in2.synthesis.fetch import SharedSources
from megatron_in2.synthesis.pipeline import Admission, RunOptions, build_writer, only_run, prepare
from megatron_in2.synthesis.questions.asking import Accepted, Lane
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.synthesis.questions.stream import QuestionStage
from megatron_in2.synthesis.rejects import Rejects, listed_rejects
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer

SHOWN_SAMPLES = 10
SHOWN_CHARACTERS = 400  # of the evidence


@dataclass(frozen=True)
class PilotSample:
    """One accepted question, with the beginning of its evidence."""

    id: str
    evidence: str
    question: str
    answer: str


@dataclass(frozen=True)
class PilotKind:
    """What became of the questions of one kind.

    Args:
        kind: fine_grained | integration | multi_document.
        asked: questions asked.
        accepted: those that passed all filters.
        dropped: the others by reason.
        cost: US dollars of all their replies; None where writing costs nothing.
        samples: some of the accepted ones.
    """

    kind: str
    asked: int
    accepted: int
    dropped: Counter[str]
    cost: float | None
    samples: tuple[PilotSample, ...]

    @property
    def cost_per_sample(self) -> float | None:
        """US dollars for one accepted question; None where unknown or free."""
        return self.cost / self.accepted if self.cost is not None and self.accepted else None


@dataclass(frozen=True)
class Pilot:
    """The kinds asked about, and the price in US dollars of each kind of sample of the mixture.

    ``prices`` lacks the kinds that no accepted question tells the price of.
    """

    kinds: tuple[PilotKind, ...]
    prices: dict[str, float]


def run_pilot(config: SynthesisConfig, output: Path, options: RunOptions, count: int) -> Pilot:
    """Ask the first ``count`` questions of a run; the run itself uses their answers again.

    The questions are divided among the kinds as the mixture divides them, one of each at least.
    Dropped ones are listed in ``output`` + ``.rejects.jsonl``.

    Raises:
        InputError: fewer than 1 question, or what a run would refuse.
    """
    if count < 1:
        raise InputError(f"--pilot {count}: must be 1 or more")
    sources = SharedSources(config, output, options.shard)
    output, tokenizer = prepare(config, output, options)
    shares = _wanted(config)
    if not any(shares.values()):
        raise InputError("--pilot: the mixture asks for no question: just run it")
    filters = replace(config.filters, stop_share=1.0)  # a pilot shows what is dropped, to its end
    with only_run(output):
        writer = build_writer(config, tokenizer, output, options.max_cost)
        with (
            QuestionStage(writer, filters, config.questions) as stage,
            listed_rejects(output) as rejects,
        ):
            store = build_store(
                config, options.shard, tokenizer, output, options.workers, sources.texts
            )
            kinds, spent = [], writer.used_cost()
            for kind, wanted in shares.items():
                if not wanted:
                    continue
                number = min(max(round(count * wanted / sum(shares.values())), 1), count)
                asked = _ask(config, kind, number, store, tokenizer, stage, rejects)
                cost = writer.used_cost()
                if cost is not None and spent is not None:
                    asked, spent = replace(asked, cost=cost - spent), cost
                kinds.append(asked)
    return Pilot(tuple(kinds), _prices(config, kinds))


def _ask(
    config: SynthesisConfig,
    kind: str,
    number: int,
    store: SegmentStore,
    tokenizer: Tokenizer,
    stage: QuestionStage,
    rejects: Rejects,
) -> PilotKind:
    before = rejects.counts.copy()
    candidates = EvidenceWalk(store, config.composition.max_tokens, config.seed).candidates(kind)
    lane = Lane(kind, candidates, wanted=number, most_asked=number)
    template = load_template(config.template, tokenizer, config.wording)
    admit = Admission(template, tokenizer, store, config.composition)
    accepted, asked = [], 0
    for each in stage.questions([lane], admit, rejects):
        if isinstance(each, Accepted):
            accepted.append(each)
        else:
            asked = each.asked
    shown = accepted[:: max(len(accepted) // SHOWN_SAMPLES, 1)][:SHOWN_SAMPLES]
    samples = tuple(_sample(each, store) for each in shown)
    dropped = Counter(
        {reason.removeprefix(f"{kind}: "): n for reason, n in (rejects.counts - before).items()}
    )
    return PilotKind(kind, asked, len(accepted), dropped, None, samples)


def _sample(accepted: Accepted, store: SegmentStore) -> PilotSample:
    text = "\n".join(store.text(segment) for segment in accepted.evidence.segments)
    draft = accepted.draft
    return PilotSample(accepted.evidence.id, text[:SHOWN_CHARACTERS], draft.question, draft.answer)


def _wanted(config: SynthesisConfig) -> dict[str, int]:
    """Return the accepted questions of each kind that all shards together need."""
    counts = config.mixture.counts()
    short = short_questions(counts)
    return {kind: counts[kind] + short[kind] for kind in LONG_KINDS}


def _prices(config: SynthesisConfig, kinds: list[PilotKind]) -> dict[str, float]:
    each = {kind.kind: kind.cost_per_sample for kind in kinds}
    counts = config.mixture.counts()
    short = short_questions(counts)
    prices: dict[str, float] = {}
    for kind in LONG_KINDS:
        if (cost := each.get(kind)) is not None:
            prices[kind] = counts[kind] * cost
            prices["short"] = prices.get("short", 0.0) + short[kind] * cost
    return prices
