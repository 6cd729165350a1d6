#!/usr/bin/env python3
r"""How well a model checks questions: against the hand-labelled sets of tests/synthesis/labelled.

Example:
    OPENAI_API_KEY=... python tools/benchmarks/question_checks.py --model gpt-4.1-mini

Asks the model to judge closed-book guesses and to verify answers, some 70 requests, and prints how
often it agrees with the labels. Judging by token F1 is printed beside it.
"""

import asyncio
import json
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.synthesis.config import FilterConfig, OpenAIConfig
from megatron_in2.synthesis.llm.writer import build_language_model_writer
from megatron_in2.synthesis.questions.filters import token_f1
from megatron_in2.synthesis.questions.writer import Draft, Evidence, QuestionWriter
from megatron_in2.tokenizers.load import load_tokenizer

LABELLED = Path(__file__).resolve().parents[2] / "tests" / "synthesis" / "labelled"
Line = dict[str, Any]


@dataclass(frozen=True)
class Agreement:
    """How often a check says what the labels say: counts of lines."""

    name: str
    lines: int
    wrongly_yes: int
    wrongly_no: int

    def __str__(self) -> str:
        right = self.lines - self.wrongly_yes - self.wrongly_no
        return (
            f"{self.name:<24} {right} of {self.lines} ({right / self.lines:.0%}); "
            f"{self.wrongly_yes} wrongly accepted, {self.wrongly_no} wrongly refused"
        )


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--model", required=True, help="the model's name at the server")
    add("--base-url", help="the server; OpenAI's own where not given")
    add("--api-key-variable", default="OPENAI_API_KEY", help="variable that holds the key")
    add("--max-cost", type=float, default=1.0, help="US dollars at most")
    options = parser.read()
    config = OpenAIConfig(
        model=options.model,
        base_url=options.base_url,
        api_key_variable=options.api_key_variable,
        temperature=0.0,
    )
    for agreement in asyncio.run(measure(config, options.max_cost)):
        print(agreement)


async def measure(config: OpenAIConfig, max_cost: float) -> list[Agreement]:
    """Ask one model about all labelled lines.

    Args:
        config: the model and its server.
        max_cost: US dollars at most.
    """
    least = FilterConfig().closed_book_f1

    async def by_f1(line: Line) -> bool:
        return token_f1(line["guess"], line["answer"]) >= least

    with tempfile.TemporaryDirectory() as folder:
        writer = build_language_model_writer(
            config, False, load_tokenizer("mistral-v1"), Path(folder) / "journal.sqlite", max_cost
        )
        try:
            return [
                await _agreement("closed book, token F1", "closed_book", "correct", by_f1),
                await _agreement(
                    "closed book, this model", "closed_book", "correct", _judge(writer)
                ),
                await _agreement("verify, this model", "verify", "supported", _verify(writer)),
            ]
        finally:
            writer.stop()
            await writer.close()


def _judge(writer: QuestionWriter) -> Callable[[Line], Awaitable[bool]]:
    return lambda line: writer.is_right(Draft(line["question"], line["answer"]), line["guess"])


def _verify(writer: QuestionWriter) -> Callable[[Line], Awaitable[bool]]:
    return lambda line: writer.supports(
        Evidence("", "fine_grained", (), (line["evidence"],)),
        Draft(line["question"], line["answer"]),
    )


async def _agreement(
    name: str, file: str, label: str, check: Callable[[Line], Awaitable[bool]]
) -> Agreement:
    lines = [json.loads(line) for line in (LABELLED / f"{file}.jsonl").read_text().splitlines()]
    said = await asyncio.gather(*map(check, lines))
    wrongly_yes = sum(yes and not line[label] for yes, line in zip(said, lines, strict=True))
    wrongly_no = sum(line[label] and not yes for yes, line in zip(said, lines, strict=True))
    return Agreement(name, len(lines), wrongly_yes, wrongly_no)


if __name__ == "__main__":
    run_command(main)
