"""The settings of one synthesis run: one YAML file."""

from dataclasses import dataclass, field

from megatron_in2.errors import InputError
from megatron_in2.tokenizer import MISTRAL_V1

SOURCES = ("python", "files", "hub")
KINDS = ("fine_grained", "integration", "short")


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
        max_documents: stop after so many; 0 takes all.
    """

    source: str = "files"
    paths: list[str] = field(default_factory=list)
    dataset: str = "allenai/c4"
    subset: str | None = "realnewslike"
    split: str = "train"
    text_field: str = "text"
    max_documents: int = 0


@dataclass(frozen=True)
class SegmentConfig:
    """How documents are cut.

    Args:
        min_tokens: a segment grows by whole lines until it has this many tokens (paper: 128).
    """

    min_tokens: int = 128


@dataclass(frozen=True)
class CompositionConfig:
    """How long contexts are composed.

    Args:
        min_tokens: shortest target length of an encoded sample, in tokens (paper: 4K).
        max_tokens: longest target length, in tokens (paper: 32K).
    """

    min_tokens: int = 4096
    max_tokens: int = 32768


@dataclass(frozen=True)
class MixtureConfig:
    """How many samples of each kind to make.

    Args:
        fine_grained: one segment is the evidence of a long context (paper: 1.1 M).
        integration: all segments of one document are the evidence (paper: 300 K).
        short: the document itself is the context (paper: 150 K).
    """

    fine_grained: int = 1_100_000
    integration: int = 300_000
    short: int = 150_000


@dataclass(frozen=True)
class SynthesisConfig:
    """One synthesis run.

    Args:
        writer: who writes questions: extractive (offline, deterministic).
        tokenizer_model: a SentencePiece file, a Hugging Face directory, or mistral-v1.
        seed: the same seed and corpus give the same samples.
    """

    corpus: CorpusConfig = field(default_factory=CorpusConfig)
    segments: SegmentConfig = field(default_factory=SegmentConfig)
    composition: CompositionConfig = field(default_factory=CompositionConfig)
    mixture: MixtureConfig = field(default_factory=MixtureConfig)
    writer: str = "extractive"
    tokenizer_model: str = MISTRAL_V1
    seed: int = 1234

    def validate(self) -> None:
        """Check the settings.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        if self.corpus.source not in SOURCES:
            raise InputError(f"corpus.source={self.corpus.source!r}: use {', '.join(SOURCES)}")
        if self.corpus.source == "files" and not self.corpus.paths:
            raise InputError("corpus.paths is empty: name at least one file")
        if self.segments.min_tokens < 1:
            raise InputError(f"segments.min_tokens={self.segments.min_tokens}: must be 1 or more")
        low, high = self.composition.min_tokens, self.composition.max_tokens
        if not 0 < low <= high:
            raise InputError(
                f"composition.min_tokens={low} and max_tokens={high}: need 0 < min <= max"
            )
        for kind in KINDS:
            if getattr(self.mixture, kind) < 0:
                raise InputError(f"mixture.{kind}={getattr(self.mixture, kind)}: must not be < 0")
