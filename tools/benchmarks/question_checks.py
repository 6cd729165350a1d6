#!/usr/bin/env python3
r"""How well questions are checked: against the hand-labelled sets of tests/synthesis/labelled.

Examples:
    python tools/benchmarks/question_checks.py
    OPENAI_API_KEY=... python tools/benchmarks/question_checks.py --model gpt-4.1-mini

Prints, for each check that costs nothing, how many lines it decides as the labels say, and beside
it what a naive check of the same kind reaches. With --model, the model judges closed-book guesses
and verifies answers too: some 70 requests.
"""

import asyncio
import json
import re
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.synthesis.config import DecontaminationConfig, FilterConfig, OpenAIConfig
from megatron_in2.synthesis.corpus.config import CorpusText
from megatron_in2.synthesis.corpus.decontamination import EvaluationTexts
from megatron_in2.synthesis.llm.writer import build_language_model_writer
from megatron_in2.synthesis.quality.names import names_in
from megatron_in2.synthesis.quality.overlap import shared_words
from megatron_in2.synthesis.questions.filters import copies_more, token_f1
from megatron_in2.synthesis.questions.restate import supporting_sentences
from megatron_in2.synthesis.questions.writer import Draft, Evidence, QuestionWriter
from megatron_in2.tokenizers.load import load_tokenizer

LABELLED = Path(__file__).resolve().parents[2] / "tests" / "synthesis" / "labelled"
_FILTERS = FilterConfig()
_NGRAM = DecontaminationConfig().ngram
Line = dict[str, Any]
Check = Callable[[Line], Any]


@dataclass(frozen=True)
class FreeCheck:
    """A check that asks nobody.

    Args:
        name: what is checked.
        file: of the labelled set.
        label: of a line.
        check: what it says of a line, to be compared with the label.
        naive: what a plain comparison of words would say.
    """

    name: str
    file: str
    label: str
    check: Check
    naive: Check

    def right(self, check: Check) -> int:
        """Return how many lines a check decides as the labels say."""
        return sum(check(line) == line[self.label] for line in read_labelled(self.file))

    def __str__(self) -> str:
        lines = len(read_labelled(self.file))
        right, naive = self.right(self.check), self.right(self.naive)
        return f"| {self.name} | {right} of {lines} | {naive} of {lines} |"


@dataclass(frozen=True)
class Agreement:
    """How often a model says what the labels say: counts of lines."""

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


def read_labelled(name: str) -> list[Line]:
    """Read one of the labelled sets."""
    text = (LABELLED / f"{name}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def _text_kind(line: Line) -> CorpusText:
    return "code" if line["language"] == "code" else "prose"


def _plain_runs(text: str, length: int) -> set[tuple[str, ...]]:
    """Return runs of what is between spaces."""
    found = text.lower().split()
    return {tuple(found[at : at + length]) for at in range(len(found) - length + 1)}


def _repeats_plainly(first: str, second: str, length: int) -> bool:
    return bool(_plain_runs(first, length) & _plain_runs(second, length))


def _capitalised(text: str) -> set[str]:
    return set(re.findall(r"[A-Z]\w+", text))


FREE_CHECKS = (
    FreeCheck(
        "`closed_book_judge: f1`",
        "closed_book",
        "correct",
        lambda line: token_f1(line["guess"], line["answer"]) >= _FILTERS.closed_book_f1,
        lambda line: False,  # no guess is right
    ),
    FreeCheck(
        "`low_overlap`: words shared with the evidence",
        "overlap",
        "shared",
        lambda line: list(shared_words(line["question"], [line["evidence"]])),
        lambda line: [
            word
            for word in line["question"].lower().rstrip("?").split()
            if word in line["evidence"].lower().split()
        ],
    ),
    FreeCheck(
        "`multi_document`: names that two texts share",
        "shared_names",
        "shared",
        lambda line: sorted(set.intersection(*map(names_in, line["texts"]))),
        lambda line: sorted(set.intersection(*map(_capitalised, line["texts"]))),
    ),
    FreeCheck(
        "`restate_evidence`: sentences that an answer rests on",
        "support",
        "support",
        lambda line: [
            line["evidence"].index(sentence)
            for sentence in supporting_sentences(
                Draft(line["question"], line["answer"]), " ".join(line["evidence"])
            )
        ],
        lambda line: [0],  # the first one
    ),
    FreeCheck(
        "`max_copied_words`, eight languages",
        "copied",
        "copied",
        lambda line: copies_more(line["answer"], (line["evidence"],), _FILTERS.max_copied_words),
        lambda line: _repeats_plainly(
            line["answer"], line["evidence"], _FILTERS.max_copied_words + 1
        ),
    ),
    FreeCheck(
        "decontamination, six languages and code",
        "overlapping",
        "overlaps",
        lambda line: (
            EvaluationTexts([line["evaluation"]], _NGRAM, _text_kind(line)).overlap(
                line["document"]
            )
            is not None
        ),
        lambda line: _repeats_plainly(line["evaluation"], line["document"], _NGRAM),
    ),
)


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--model", help="the model's name at the server; without it no model is asked")
    add("--base-url", help="the server; OpenAI's own where not given")
    add("--api-key-variable", default="OPENAI_API_KEY", help="variable that holds the key")
    add("--max-cost", type=float, default=1.0, help="US dollars at most")
    options = parser.read()
    print("| check | as labelled | naive check |\n|---|---|---|")
    for check in FREE_CHECKS:
        print(check)
    if options.model is None:
        return
    config = OpenAIConfig(
        model=options.model,
        base_url=options.base_url,
        api_key_variable=options.api_key_variable,
        temperature=0.0,
    )
    for agreement in asyncio.run(measure(config, options.max_cost)):
        print(agreement)


async def measure(config: OpenAIConfig, max_cost: float) -> list[Agreement]:
    """Ask one model about the lines that need a judge.

    Args:
        config: the model and its server.
        max_cost: US dollars at most.
    """
    with tempfile.TemporaryDirectory() as folder:
        writer = build_language_model_writer(
            config, False, load_tokenizer("mistral-v1"), Path(folder) / "journal.sqlite", max_cost
        )
        try:
            return [
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
    lines = read_labelled(file)
    said = await asyncio.gather(*map(check, lines))
    wrongly_yes = sum(yes and not line[label] for yes, line in zip(said, lines, strict=True))
    wrongly_no = sum(line[label] and not yes for yes, line in zip(said, lines, strict=True))
    return Agreement(name, len(lines), wrongly_yes, wrongly_no)


if __name__ == "__main__":
    run_command(main)
