"""The settings of what makes questions worth training on."""

from dataclasses import dataclass, field
from typing import Any

from megatron_in2.synthesis.bounds import require_counts, require_not_negative, require_shares


@dataclass(frozen=True)
class QuestionConfig:
    """How questions and answers are changed after they are written.

    Args:
        low_overlap: share of the questions that are reworded until they have no content word in
            common with their evidence but names (NoLiMa, arXiv 2502.05167); those that cannot be
            are dropped. Costs one request or more each.
        low_overlap_tries: rewordings of one question at most.
        restate_evidence: begin every answer with the sentences that it rests on, quoted
            (position-agnostic training, arXiv 2311.09198, restates before it answers).
    """

    low_overlap: float = 0.0
    low_overlap_tries: int = 2
    restate_evidence: bool = False

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_counts("questions", self, "low_overlap_tries")
        require_shares("questions", self, "low_overlap")


@dataclass(frozen=True)
class CheckerConfig:
    """Which model checks questions (``filters.verify``, ``filters.closed_book_judge: model``).

    It is asked one by one, also beside openai-batch.

    Args:
        model: its name at the server; empty: the model that writes.
        base_url: its server; null is OpenAI's own.
        api_key_variable: environment variable that holds its key.
        temperature: sampling temperature; null leaves it to the server.
        max_answer_tokens: longest reply in tokens.
        reasoning_effort: of a reasoning model; null leaves it to the server.
        extra_body: further fields of each request.
    """

    model: str = ""
    base_url: str | None = None
    api_key_variable: str = "OPENAI_API_KEY"
    temperature: float | None = 0.0
    max_answer_tokens: int = 512
    reasoning_effort: str | None = None
    extra_body: dict[str, Any] = field(default_factory=dict)

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_counts("checker", self, "max_answer_tokens")
        require_not_negative("checker", self, "temperature")
