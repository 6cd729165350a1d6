"""The settings of the OpenAI protocol."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from megatron_in2.synthesis.bounds import (
    require_counts,
    require_durations,
    require_not_negative,
)


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

    def validate(self) -> None:
        """Check the section; raises InputError."""
        require_counts("openai", self, "concurrency", "max_attempts", "max_answer_tokens")
        require_counts("openai", self, "expected_answer_tokens", "batch_requests")
        require_counts("openai", self, "batch_bytes", "batches_at_once")
        require_not_negative("openai", self, "requests_per_minute", "tokens_per_minute")
        require_not_negative("openai", self, "batch_tokens", "first_backoff_seconds", "temperature")
        require_durations("openai", self, "timeout_seconds", "batch_poll_seconds")
