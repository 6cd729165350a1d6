"""The settings of one synthesis run: one YAML file."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from megatron_in2.choices import require_choices
from megatron_in2.errors import InputError
from megatron_in2.synthesis.quality.config import CheckerConfig, QuestionConfig
from megatron_in2.templates.load import BASE
from megatron_in2.templates.wordings import WordingName
from megatron_in2.tokenizers.load import MISTRAL_V1

CorpusSource = Literal["python", "files", "hub"]
InstructionsSource = Literal["files", "hub"]
CorpusText = Literal["prose", "code"]
WriterName = Literal["extractive", "openai", "openai-batch"]
Fillers = Literal["random", "hard"]
InstructionWording = Literal["film", "chat"]
ClosedBookJudge = Literal["model", "f1"]
PAPER_KINDS = ("fine_grained", "integration")  # of questions; ``short`` samples are of these, too
LONG_KINDS = (*PAPER_KINDS, "multi_document")
KINDS = (*LONG_KINDS, "short", "instruction")


@dataclass(frozen=True)
class CorpusConfig:
    """Where documents come from.

    Args:
        source: python (the texts that every Python carries) | files | hub (``datasets``).
        paths: for files: JSON lines (.jsonl, .json, .gz, .zst), .parquet or text files.
        dataset: for hub: the data set's name or local directory, such as allenai/c4.
        subset: for hub: its configuration, such as realnewslike.
        split: for hub: its split.
        text_field: field or column that holds the text.
        max_documents: stop after so many (in each shard); 0 takes all.
        max_document_characters: a longer text is refused, not loaded by mistake.
    """

    source: CorpusSource = "files"
    paths: list[str] = field(default_factory=list)
    dataset: str = "allenai/c4"
    subset: str | None = "realnewslike"
    split: str = "train"
    text_field: str = "text"
    max_documents: int = 0
    max_document_characters: int = 20_000_000


@dataclass(frozen=True)
class DecontaminationConfig:
    """Which evaluation texts no document may share a run of words with.

    Args:
        paths: evaluation texts: JSON lines (all their string values), .parquet or text files.
        ngram: length of the shared run in words (paper: 10).
        text: prose | code. A run of code has three times as many names and signs; comments and
            imports are left out.
    """

    paths: list[str] = field(default_factory=list)
    ngram: int = 10
    text: CorpusText = "prose"


@dataclass(frozen=True)
class NearDuplicatesConfig:
    """Whether documents that nearly repeat an earlier one of the shard are left out.

    Args:
        threshold: estimated Jaccard similarity of the documents' 5-word shingles from which on
            the later one is dropped, such as 0.8; 0 keeps all (paper).
    """

    threshold: float = 0.0


@dataclass(frozen=True)
class SegmentConfig:
    """How documents are cut.

    Args:
        min_tokens: a segment grows by whole lines until it has this many tokens (paper: 128).
        max_tokens: a longer segment is cut, at the ends of sentences if it has any; 0 never cuts
            a line (paper).
    """

    min_tokens: int = 128
    max_tokens: int = 512


@dataclass(frozen=True)
class CompositionConfig:
    """How long contexts are composed.

    Args:
        min_tokens: shortest target length of an encoded sample, in tokens (paper: 4K).
        max_tokens: longest target length, in tokens (paper: 32K).
        fillers: random (paper) | hard (lexically similar segments, by BM25, among random ones).
        hard_share: for hard: share of the fillers' tokens that similar segments may take.
        hard_pool: for hard: how many of the store's segments, evenly spread, are searched.
        shared_run: a segment that has so many tokens in a row in common with the evidence is no
            filler (8 are about 6 English words): else the asked sentence may be in the context
            twice; 0 compares nothing (paper).
    """

    min_tokens: int = 4096
    max_tokens: int = 32768
    fillers: Fillers = "random"
    hard_share: float = 0.5
    hard_pool: int = 100_000
    shared_run: int = 8


@dataclass(frozen=True)
class MixtureConfig:
    """How many samples of each kind to make, over all shards.

    Args:
        total: 0: the fields below are counts; else they are shares of this many samples.
        fine_grained: one segment is the evidence of a long context (paper: 1.1 M).
        integration: all segments of one document are the evidence (paper: 300 K).
        multi_document: segments of two or three documents that mention the same name are the
            evidence (paper: none).
        short: questions of the paper's two types whose context is their original text (paper:
            150 K).
        instruction: general chat data, see ``instructions`` (paper: 200 K of OpenOrca).
    """

    total: int = 0
    fine_grained: float = 1_100_000
    integration: float = 300_000
    multi_document: float = 0
    short: float = 150_000
    instruction: float = 0

    def counts(self) -> dict[str, int]:
        """Return the number of samples of each kind.

        Raises:
            InputError: a negative value, a broken count, or shares that do not add up to 1.
        """
        given = {kind: float(getattr(self, kind)) for kind in KINDS}
        for kind, value in given.items():
            if value < 0 or (not self.total and value != int(value)):
                raise InputError(
                    f"mixture.{kind}={value:g}: must be a whole number from 0, "
                    "or a share with mixture.total set"
                )
        if not self.total:
            return {kind: int(value) for kind, value in given.items()}
        if abs(sum(given.values()) - 1) > 1e-6:
            raise InputError(
                f"mixture: shares add up to {sum(given.values()):g}, not 1 "
                "(with mixture.total=0 they are counts)"
            )
        counts = {kind: int(self.total * value) for kind, value in given.items()}
        # Largest remainders first, so that the counts add up to the total.
        by_remainder = sorted(KINDS, key=lambda kind: counts[kind] - self.total * given[kind])
        for kind in by_remainder[: self.total - sum(counts.values())]:
            counts[kind] += 1
        return counts


def short_questions(counts: dict[str, int]) -> dict[str, int]:
    """Divide the ``short`` samples among the paper's kinds, in proportion to their own counts."""
    short, long = counts["short"], sum(counts[kind] for kind in PAPER_KINDS)
    integration = round(short * counts["integration"] / long) if long else 0
    return {"fine_grained": short - integration, "integration": integration, "multi_document": 0}


@dataclass(frozen=True)
class InstructionsConfig:
    """Where general instruction data comes from.

    Args:
        source: files | hub.
        paths: for files: JSON lines (.jsonl, .json, .gz, .zst) or .parquet.
        dataset: for hub: the data set's name or local directory, such as Open-Orca/OpenOrca.
        subset: for hub: its configuration.
        split: for hub: its split.
        messages_field: field of a list of {"role", "content"}; used where a record has it.
        system_field: else: field of the system prompt, which may be absent or empty.
        question_field: else: field of the user's turn.
        response_field: else: field of the assistant's turn.
        wording: of records without ``messages_field``: film (FILM's wording for an instruction
            without context; the system prompt, if any, comes before the question) | chat (turns
            of their own, as prompt erasing needs them).
    """

    source: InstructionsSource = "hub"
    paths: list[str] = field(default_factory=list)
    dataset: str = "Open-Orca/OpenOrca"
    subset: str | None = None
    split: str = "train"
    messages_field: str = "messages"
    system_field: str = "system_prompt"
    question_field: str = "question"
    response_field: str = "response"
    wording: InstructionWording = "film"


@dataclass(frozen=True)
class FilterConfig:
    """Which written questions are dropped; malformed and empty ones always are.

    Args:
        context_phrases: drop questions and answers that speak of "the context" or "the text".
        max_copied_words: drop answers that copy a longer run of words from the evidence; 0: off.
        duplicate_questions: drop a question that was asked before in this shard.
        citations: drop integration answers whose quotes are not in the cited pieces, or that
            cite fewer than two pieces; off where the prompt asks for no quotes.
        closed_book: ask the writer without the context; drop what it answers rightly.
        closed_book_judge: model (the checker says whether the reply is right) | f1 (free, and
            mostly wrong: docs/synthesis.md has the measurement).
        closed_book_f1: for f1: token F1 with the answer from which on a reply counts as right.
        verify: ask the checker whether the evidence supports the answer; drop what it does not.
        stop_share: end a paid run when more than this share of the last 200 replies is dropped:
            the prompt is wrong then; 1 never ends it.
    """

    context_phrases: bool = True
    max_copied_words: int = 25
    duplicate_questions: bool = True
    citations: bool = True
    closed_book: bool = False
    closed_book_judge: ClosedBookJudge = "model"
    closed_book_f1: float = 0.6
    verify: bool = False
    stop_share: float = 0.6


@dataclass(frozen=True)
class OpenAIConfig:
    """How questions are asked through the OpenAI protocol.

    Args:
        model: the model's name at the server.
        base_url: the server, such as http://localhost:8000/v1 for vLLM; null is OpenAI's own.
        api_key_variable: environment variable that holds the key.
        temperature: sampling temperature; null leaves it to the server.
        max_answer_tokens: longest reply in tokens.
        structured_output: ask for JSON by a schema; where the server knows none, plain text.
        concurrency: requests in flight at most.
        requests_per_minute: rate limit; 0 is none.
        tokens_per_minute: rate limit over prompt and longest reply; 0 is none.
        timeout_seconds: for one attempt.
        max_attempts: tries of one request before it is given up.
        first_backoff_seconds: wait before the second try; it doubles, with jitter, to a minute.
        prompts: strict | paper (asks what the IN2 paper's prompts ask and no more), or a
            directory of prompt files that replace those of ``strict`` one by one.
        prices: YAML file of prices that replaces the package's.
        expected_answer_tokens: a reply's length in estimates, until there are real ones.
        limit_parameter: the name under which the server takes the longest reply; the other one
            is tried where it says so.
        reasoning_effort: of a reasoning model, such as low; null leaves it to the server.
        extra_body: further fields of each request, such as top_p.
        batch_requests: openai-batch: requests in one batch at most.
        batch_bytes: openai-batch: bytes of one batch's file at most.
        batch_tokens: openai-batch: prompt tokens of one batch at most; 0 is no limit.
        batches_at_once: openai-batch: batches at the server at most.
        batch_poll_seconds: openai-batch: wait between two looks at a batch.
    """

    model: str = "gpt-4-turbo"
    base_url: str | None = None
    api_key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = 0.7
    max_answer_tokens: int = 512
    structured_output: bool = True
    concurrency: int = 64
    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    timeout_seconds: float = 120.0
    max_attempts: int = 10
    first_backoff_seconds: float = 1.0
    prompts: str = "strict"
    prices: Path | None = None
    expected_answer_tokens: int = 150
    limit_parameter: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)
    batch_requests: int = 20_000
    batch_bytes: int = 190_000_000
    batch_tokens: int = 0
    batches_at_once: int = 4
    batch_poll_seconds: float = 60.0


@dataclass(frozen=True)
class SynthesisConfig:
    """One synthesis run.

    Args:
        writer: who writes questions: extractive (offline, deterministic) | openai | openai-batch.
        tokenizer_model: a Hugging Face directory, a tokenizer.json, a SentencePiece file, or
            mistral-v1.
        template: under which samples are counted, so that they fit their rows: base (the chat
            template beside the tokenizer; film where there is none), film, chatml, a file, or a
            directory with a template. Preprocess with the same.
        wording: of a user's message inside a base's own chat template: film | plain.
        seed: the same seed and corpus give the same samples.
    """

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    decontamination: DecontaminationConfig = field(default_factory=DecontaminationConfig)
    near_duplicates: NearDuplicatesConfig = field(default_factory=NearDuplicatesConfig)
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    composition: CompositionConfig = field(default_factory=CompositionConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    instructions: InstructionsConfig = field(default_factory=InstructionsConfig)
    questions: QuestionConfig = field(default_factory=QuestionConfig)
    filters: FilterConfig = field(default_factory=FilterConfig)
    checker: CheckerConfig = field(default_factory=CheckerConfig)
    openai: OpenAIConfig = field(default_factory=OpenAIConfig)
    writer: WriterName = "extractive"
    tokenizer_model: str = MISTRAL_V1
    template: str = BASE
    wording: WordingName = "film"
    seed: int = 1234

    def validate(self) -> None:
        """Check the settings.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        require_choices(self)
        _require_finite(self)
        self._require_bounds()
        if not sum(self.mixture.counts().values()):
            raise InputError("mixture: all kinds are 0, nothing is made: ask for a sample")
        if self.corpus.source == "files" and not self.corpus.paths:
            raise InputError("corpus.paths is empty: name at least one file")
        if self.questions.low_overlap and self.writer == "extractive":
            raise InputError(
                f"questions.low_overlap={self.questions.low_overlap:g}: writer=extractive cannot "
                "reword questions: use openai or openai-batch"
            )
        instructions = self.instructions
        if self.mixture.instruction and instructions.source == "files" and not instructions.paths:
            raise InputError("instructions.paths is empty: name at least one file")

    def _require_bounds(self) -> None:
        composition, openai = self.composition, self.openai
        if not 0 < composition.min_tokens <= composition.max_tokens:
            raise InputError(
                f"composition.min_tokens={composition.min_tokens} and "
                f"max_tokens={composition.max_tokens}: need 0 < min <= max"
            )
        for name, value in (
            ("segments.min_tokens", self.segments.min_tokens),
            ("decontamination.ngram", self.decontamination.ngram),
            ("composition.hard_pool", composition.hard_pool),
            ("corpus.max_document_characters", self.corpus.max_document_characters),
            ("openai.concurrency", openai.concurrency),
            ("openai.max_attempts", openai.max_attempts),
            ("openai.max_answer_tokens", openai.max_answer_tokens),
            ("openai.expected_answer_tokens", openai.expected_answer_tokens),
            ("openai.batch_requests", openai.batch_requests),
            ("openai.batch_bytes", openai.batch_bytes),
            ("openai.batches_at_once", openai.batches_at_once),
            ("questions.low_overlap_tries", self.questions.low_overlap_tries),
            ("checker.max_answer_tokens", self.checker.max_answer_tokens),
        ):
            if value < 1:
                raise InputError(f"{name}={value}: must be 1 or more")
        segments = self.segments
        if segments.max_tokens and segments.max_tokens < 2 * segments.min_tokens:
            raise InputError(
                f"segments.max_tokens={segments.max_tokens}: must be at least twice "
                f"segments.min_tokens={segments.min_tokens}, or 0 for no limit"
            )
        for name, share in (
            ("composition.hard_share", composition.hard_share),
            ("near_duplicates.threshold", self.near_duplicates.threshold),
            ("filters.closed_book_f1", self.filters.closed_book_f1),
            ("filters.stop_share", self.filters.stop_share),
            ("questions.low_overlap", self.questions.low_overlap),
        ):
            if not 0 <= share <= 1:
                raise InputError(f"{name}={share:g}: must be from 0 to 1")
        for name, amount in (
            ("seed", self.seed),
            ("mixture.total", self.mixture.total),
            ("corpus.max_documents", self.corpus.max_documents),
            ("openai.requests_per_minute", openai.requests_per_minute),
            ("openai.tokens_per_minute", openai.tokens_per_minute),
            ("openai.batch_tokens", openai.batch_tokens),
            ("filters.max_copied_words", self.filters.max_copied_words),
            ("openai.first_backoff_seconds", openai.first_backoff_seconds),
            ("openai.temperature", openai.temperature or 0.0),
            ("checker.temperature", self.checker.temperature or 0.0),
            ("composition.shared_run", composition.shared_run),
        ):
            if amount < 0:
                raise InputError(f"{name}={amount}: must not be < 0")
        for name, seconds in (
            ("openai.timeout_seconds", openai.timeout_seconds),
            ("openai.batch_poll_seconds", openai.batch_poll_seconds),
        ):
            if seconds <= 0:
                raise InputError(f"{name}={seconds:g}: must be more than 0")


def _require_finite(config: Any, prefix: str = "") -> None:
    """Check that no number in a dataclass is infinite or not a number."""
    for each in fields(config):
        value = getattr(config, each.name)
        if is_dataclass(value):
            _require_finite(value, f"{prefix}{each.name}.")
        for name, number in _numbers(value, f"{prefix}{each.name}"):
            if not math.isfinite(number):
                raise InputError(f"{name}={number}: must be a finite number")


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield the name and value of every float in a field, also inside lists and dicts."""
    if isinstance(value, float):
        yield name, value
    elif isinstance(value, dict):
        for key, child in value.items():
            yield from _numbers(child, f"{name}.{key}")
    elif isinstance(value, list):
        for child in value:
            yield from _numbers(child, name)
