"""The settings of what a corpus becomes: documents, cut into segments."""

from dataclasses import dataclass, field
from typing import Literal

from megatron_in2.errors import InputError
from megatron_in2.synthesis.bounds import require_counts, require_not_negative, require_shares

CorpusSource = Literal["python", "files", "hub"]
CorpusText = Literal["prose", "code"]


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

    def validate(self) -> None:
        """Check the section.

        Raises:
            InputError: naming the field, its value and the remedy.
        """
        require_counts("corpus", self, "max_document_characters")
        require_not_negative("corpus", self, "max_documents")
        if self.source == "files" and not self.paths:
            raise InputError("corpus.paths is empty: name at least one file")


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

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_counts("decontamination", self, "ngram")


@dataclass(frozen=True)
class NearDuplicatesConfig:
    """Whether documents that nearly repeat an earlier one of the shard are left out.

    Args:
        threshold: estimated Jaccard similarity of the documents' 5-word shingles from which on
            the later one is dropped, such as 0.8; 0 keeps all (paper).
    """

    threshold: float = 0.0

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_shares("near_duplicates", self, "threshold")


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

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_counts("segments", self, "min_tokens")
        if self.max_tokens and self.max_tokens < 2 * self.min_tokens:
            raise InputError(
                f"segments.max_tokens={self.max_tokens}: must be at least twice "
                f"segments.min_tokens={self.min_tokens}, or 0 for no limit"
            )
