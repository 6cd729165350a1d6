"""The settings of what samples are made of: the mixture, contexts, general instruction data."""

from dataclasses import dataclass, field
from typing import Literal

from megatron_in2.errors import InputError
from megatron_in2.synthesis.bounds import require_counts, require_not_negative, require_shares

InstructionsSource = Literal["files", "hub"]
Fillers = Literal["random", "hard"]
InstructionWording = Literal["film", "chat"]
PAPER_KINDS = ("fine_grained", "integration")  # of questions; ``short`` samples are of these, too
LONG_KINDS = (*PAPER_KINDS, "multi_document")
KINDS = (*LONG_KINDS, "short", "instruction")


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

    def validate(self) -> None:
        """Check the section; raises InputError."""
        if not 0 < self.min_tokens <= self.max_tokens:
            raise InputError(
                f"composition.min_tokens={self.min_tokens} and "
                f"max_tokens={self.max_tokens}: need 0 < min <= max"
            )
        require_counts("composition", self, "hard_pool")
        require_shares("composition", self, "hard_share")
        require_not_negative("composition", self, "shared_run")


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

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_not_negative("mixture", self, "total")
        if not sum(self.counts().values()):
            raise InputError("mixture: all kinds are 0, nothing is made: ask for a sample")


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

    def validate(self) -> None:
        """Check the section of a run that wants instructions; raises InputError."""
        if self.source == "files" and not self.paths:
            raise InputError("instructions.paths is empty: name at least one file")
