"""The settings of one synthesis run: one YAML file; each section is beside what it is about."""

from dataclasses import dataclass, field
from typing import Literal

from megatron_in2.choices import require_choices
from megatron_in2.errors import InputError
from megatron_in2.synthesis.bounds import require_finite
from megatron_in2.synthesis.composition.config import (
    KINDS,
    LONG_KINDS,
    PAPER_KINDS,
    CompositionConfig,
    InstructionsConfig,
    InstructionWording,
    MixtureConfig,
    short_questions,
)
from megatron_in2.synthesis.corpus.config import (
    CorpusConfig,
    CorpusText,
    DecontaminationConfig,
    NearDuplicatesConfig,
    SegmentConfig,
)
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.quality.config import CheckerConfig, QuestionConfig
from megatron_in2.synthesis.questions.config import FilterConfig
from megatron_in2.templates.load import BASE
from megatron_in2.templates.wordings import WordingName
from megatron_in2.tokenizers.load import MISTRAL_V1

__all__ = [
    "KINDS", "LONG_KINDS", "PAPER_KINDS", "CheckerConfig", "CompositionConfig", "CorpusConfig",
    "CorpusText", "DecontaminationConfig", "FilterConfig", "InstructionWording",
    "InstructionsConfig", "MixtureConfig", "NearDuplicatesConfig", "OpenAIConfig",
    "QuestionConfig", "SegmentConfig", "SynthesisConfig", "short_questions",
]  # fmt: skip

WriterName = Literal["extractive", "openai", "openai-batch"]


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
        require_finite(self)
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: must not be < 0")
        for section in (
            self.corpus,
            self.decontamination,
            self.near_duplicates,
            self.segments,
            self.composition,
            self.mixture,
            self.questions,
            self.filters,
            self.checker,
            self.openai,
        ):
            section.validate()
        if self.mixture.instruction:
            self.instructions.validate()
        if self.questions.low_overlap and self.writer == "extractive":
            raise InputError(
                f"questions.low_overlap={self.questions.low_overlap:g}: writer=extractive cannot "
                "reword questions: use openai or openai-batch"
            )
