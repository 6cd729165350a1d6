"""One synthesis run: corpus -> segment store -> questions -> composed samples -> X.jsonl."""

import fcntl
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file
from megatron_in2.records import JoinedPart, QAPair
from megatron_in2.segment_store import SegmentStore
from megatron_in2.shards import Shard
from megatron_in2.synthesis.composition.compose import Composer
from megatron_in2.synthesis.composition.config import LONG_KINDS, CompositionConfig, short_questions
from megatron_in2.synthesis.composition.hard_fillers import build_index
from megatron_in2.synthesis.composition.samples import CHUNK_SAMPLES, Asked, Finished, sample_maker
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.corpus.store_stage import build_store
from megatron_in2.synthesis.fetch import SharedSources
from megatron_in2.synthesis.instructions import InstructionStage
from megatron_in2.synthesis.llm.writer import build_language_model_writer
from megatron_in2.synthesis.questions.asking import Lane, LaneEnd
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.synthesis.questions.extractive import ExtractiveWriter
from megatron_in2.synthesis.questions.stream import QuestionStage
from megatron_in2.synthesis.questions.writer import Decisions, Draft, Evidence, QuestionWriter
from megatron_in2.synthesis.rejects import Rejects, listed_rejects
from megatron_in2.synthesis.report import SynthesisReport
from megatron_in2.synthesis.workers import ordered_map
from megatron_in2.templates.base import Template, Turn
from megatron_in2.templates.ids import TokenCounter
from megatron_in2.templates.load import load_template
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer


@dataclass(frozen=True)
class Tally:
    """What became of the evidence that was tried: samples by kind, drops by reason, paid calls."""

    output: Path
    made: Counter[str]
    dropped: Counter[str]
    calls: dict[str, Any] | None


@dataclass(frozen=True)
class RunOptions:
    """How a run is done; none of it but ``materialize`` and ``shard`` changes what it writes.

    Args:
        materialize: write whole contexts as text instead of recipes.
        overwrite: replace an output that exists; paid answers stay in the journal.
        shard: which part of the work is done.
        workers: processes that cut documents and compose samples.
        max_cost: US dollars that all runs with this journal may spend; None is no limit.
    """

    materialize: bool = False
    overwrite: bool = False
    shard: Shard = field(default_factory=Shard)
    workers: int = 1
    max_cost: float | None = None


def synthesize(config: SynthesisConfig, output: Path, options: RunOptions | None = None) -> Tally:
    """Make IN2 samples from a corpus.

    Writes ``output`` (JSON lines; a shard has its own name) and, with the same name plus a suffix,
    the segment store ``.segments``, ``.report.json``, ``.report.png``, ``.rejects.jsonl``,
    ``.dropped_documents.jsonl`` and, for paid writers, the journal ``.journal.sqlite``. A stopped
    run continues from the store and the journal, and ends with the same bytes.

    Raises:
        InputError: an unusable setting, corpus or output; the message names it.
    """
    options = options or RunOptions()
    sources = SharedSources(config, output, options.shard)
    output, tokenizer = prepare(config, output, options)
    with only_run(output):
        # Made first: a missing key or price is known before the corpus is read.
        writer = build_writer(config, tokenizer, output, options.max_cost)
        with QuestionStage(writer, config.filters, config.questions) as questions:
            store = build_store(
                config, options.shard, tokenizer, output, options.workers, sources.texts
            )
            decisions = writer.decisions(_conditions(config, store, tokenizer))
            report = SynthesisReport(config.composition)
            with atomic_file(output) as stream, listed_rejects(output) as rejects:
                stages = _Stages(store, questions, decisions, sources)
                run = _SynthesisRun(config, options, tokenizer, stages, rejects)
                for sample in run.samples():
                    stream.write(sample.line)
                    report.count(sample)
                calls = writer.calls()
                report.write(output, rejects.counts, store.manifest, calls)
    return Tally(output, report.made, rejects.counts, calls)


def prepare(config: SynthesisConfig, output: Path, options: RunOptions) -> tuple[Path, Tokenizer]:
    """Check what can be checked before any work; return this shard's output and the tokenizer.

    Raises:
        InputError: an unusable setting, or an output that exists.
    """
    config.validate()
    if options.workers < 1:
        raise InputError(f"--workers {options.workers}: must be 1 or more")
    output = options.shard.path(output)
    if output.exists() and not options.overwrite:
        raise InputError(f"{output} already exists: pass --overwrite or name another output")
    tokenizer = load_tokenizer(config.tokenizer_model)
    return output, tokenizer


def build_writer(
    config: SynthesisConfig, tokenizer: Tokenizer, output: Path, max_cost: float | None
) -> QuestionWriter:
    """Return the run's writer.

    Raises:
        InputError: a paid writer lacks its key, price, prompts or journal.
    """
    if config.writer == "extractive":
        return ExtractiveWriter(config.seed)
    batch = config.writer == "openai-batch"
    journal = journal_path(output)
    return build_language_model_writer(
        config.openai, batch, tokenizer, journal, max_cost, config.checker
    )


def journal_path(output: Path) -> Path:
    """Return where the paid calls of an output are journalled."""
    return output.with_name(f"{output.name}.journal.sqlite")


@contextmanager
def only_run(output: Path) -> Iterator[None]:
    """Keep a second run from the same output, and clear what a killed one left half-written.

    Raises:
        InputError: another run is at work.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with open(output.with_name(f".{output.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another run is writing {output}: wait for it or end it") from error
        for remnant in output.parent.glob(f".{output.name}*.partial-*"):
            shutil.rmtree(remnant) if remnant.is_dir() else remnant.unlink()
        yield


class Admission:
    """Tells whether a question and its evidence fit into the longest context.

    Args:
        template: of the samples.
        tokenizer: of the samples.
        store: the segments.
        config: the composition.
    """

    def __init__(
        self,
        template: Template,
        tokenizer: Tokenizer,
        store: SegmentStore,
        config: CompositionConfig,
    ) -> None:
        self._template = template
        self._wording = template.wording
        self._counter = TokenCounter(tokenizer)
        self._store = store
        self._composer = Composer(store, config.min_tokens, config.max_tokens)

    def __call__(self, evidence: Evidence, draft: Draft) -> tuple[int, str | None]:
        """Return the tokens of a question's frame, and a reason to drop it or None."""
        frame = self._frame_tokens(draft)
        fits = self._composer.fits(evidence.segments, frame)
        return frame, None if fits else "evidence too long"

    def _frame_tokens(self, draft: Draft) -> int:
        """Tokens of the encoded sample outside its context, control tokens included."""
        before, after = self._wording.around_context(draft.question)
        message = JoinedPart(before, self._store.path, (), after)
        parts = self._template.parts(None, [Turn(message, draft.answer)])
        return self._counter.count(parts)


def _conditions(config: SynthesisConfig, store: SegmentStore, tokenizer: Tokenizer) -> str:
    """Name what the fate of a question depends on beside the writer and the program."""
    return repr(
        (
            store.manifest["content_sha256"],
            tokenizer.sha256,
            load_template(config.template, tokenizer, config.wording).sha256,
            replace(config.filters, stop_share=1.0, duplicate_questions=True),  # looked at later
            config.questions,
            config.composition.max_tokens,
            config.wording,
            config.seed,
        )
    )


@dataclass(frozen=True)
class _Stages:
    """What a run is made of before its first question."""

    store: SegmentStore
    questions: QuestionStage
    decisions: Decisions | None
    sources: SharedSources


class _SynthesisRun:
    """The stages of one run, wired: evidence -> questions -> samples."""

    def __init__(
        self,
        config: SynthesisConfig,
        options: RunOptions,
        tokenizer: Tokenizer,
        stages: _Stages,
        rejects: Rejects,
    ) -> None:
        limits, store = config.composition, stages.store
        self._sources = stages.sources
        self._decisions = stages.decisions
        self._config = config
        self._options = options
        self._tokenizer = tokenizer
        self._template = load_template(config.template, tokenizer, config.wording)
        self._store = store
        self._stage = stages.questions
        self._rejects = rejects
        self._walk = EvidenceWalk(store, limits.max_tokens, config.seed)
        self._admit = Admission(self._template, tokenizer, store, limits)
        self._wanted = {
            kind: options.shard.part_of(count) for kind, count in config.mixture.counts().items()
        }
        self._short = short_questions(self._wanted)

    def samples(self) -> Iterator[Finished]:
        """Yield samples kind by kind.

        Raises:
            InputError: the corpus or the instruction data is too small for the number asked for.
        """
        for kind in LONG_KINDS:  # known before the first question is paid for
            if self._questions(kind):
                self._require_all(kind, self._walk.count(kind))
        composition = self._config.composition
        prefix = f".{self._store.path.name}.hard.partial-"  # cleared by the next run, too
        with TemporaryDirectory(prefix=prefix, dir=self._store.path.parent) as folder:
            index = Path(folder) if composition.fillers == "hard" else None
            if index is not None:
                build_index(self._store, composition.hard_pool, index)
            make = partial(
                sample_maker,
                self._store.path,
                index,
                composition,
                self._config.seed,
                self._template.sha256,
                self._options.materialize,
            )
            yield from ordered_map(make, self._asked(), self._options.workers, CHUNK_SAMPLES)
        yield from self._instructions()

    def _questions(self, kind: str) -> int:
        return self._wanted[kind] + self._short[kind]

    def _require_all(self, kind: str, made: int) -> None:
        if made < (wanted := self._questions(kind)):
            raise InputError(
                f"the corpus yields {made} {kind} questions at most, mixture.{kind} and its part "
                f"of mixture.short ask for {wanted}: add text or lower them"
            )

    def _asked(self) -> Iterator[Asked]:
        lanes = [
            Lane(kind, self._walk.candidates(kind), self._questions(kind)) for kind in LONG_KINDS
        ]
        accepted: Counter[str] = Counter()
        for each in self._stage.questions(lanes, self._admit, self._rejects, self._decisions):
            if isinstance(each, LaneEnd):
                self._require_all(each.kind, accepted[each.kind])
                continue
            evidence, qa = each.evidence, QAPair(each.draft.question, each.draft.answer)
            identity, kind = evidence.id, evidence.kind
            if self._is_short(kind, accepted[kind]):
                identity, kind = f"short/{identity}", "short"
            accepted[evidence.kind] += 1
            yield Asked(identity, kind, evidence.segments, qa, each.frame_tokens)

    def _is_short(self, kind: str, number: int) -> bool:
        """Whether a kind's accepted question of this number, from 0, has its text as context.

        They are spread evenly over the kind's questions.
        """
        short, questions = self._short[kind], self._questions(kind)
        return (number + 1) * short // questions > number * short // questions

    def _instructions(self) -> Iterator[Finished]:
        wanted, made = self._wanted["instruction"], 0
        if not wanted:
            return
        config, limit = self._config, self._config.composition.max_tokens
        stage = InstructionStage(
            config.instructions,
            self._options.shard,
            self._tokenizer,
            self._template,
            limit,
            config.seed,
            self._sources.instructions,
        )
        for sample in stage.samples(wanted, self._rejects):
            made += 1
            yield sample
        if made < wanted:
            raise InputError(
                f"the instruction data yields {made} samples at most, mixture.instruction asks for "
                f"{wanted}: add data or lower it"
            )
