"""The budget ladder's figures, by arithmetic from configs/ladder and the prices file.

What is assumed is written in docs/budget.md beside the tables; nothing here was measured.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.synthesis.config import SynthesisConfig, short_questions
from megatron_in2.synthesis.llm.prompts import load_prompts
from megatron_in2.synthesis.llm.spending import PACKAGED, Usage, load_price
from megatron_in2.tokenizers.load import load_tokenizer
from tests.conftest import ROOT

LADDER = ROOT / "configs" / "ladder"
RUNGS = ("1pct", "10pct", "100pct")
VAL_AVERAGES = {"1pct": 70.1, "10pct": 80.6, "100pct": 85.9}  # the base: 47.3
PAPER_GPU_HOURS = 300 * 24  # A100-80G, for all of the data

SEGMENT_TOKENS = 190  # one of 128 tokens or more in lines of about 50, of a text of 600
DOCUMENT_TOKENS = 600  # the paper's figure for realnewslike, Mistral's tokenizer
CHAT_TOKENS = 8
INSTRUCTION_TOKENS = 400
FILL = 0.99  # of packed rows
BATCH_ROWS = 64
ROW_TOKENS = 32_768

PARAMETERS = 7_241_732_096
LAYERS, HIDDEN = 32, 4096
H100_FLOPS, UTILISATION = 989e12, 0.4


@dataclass(frozen=True)
class Rung:
    """One rung: what its configuration asks for, and what that takes."""

    samples: int
    questions: int
    prompt_tokens: int
    reply_tokens: int
    cached_tokens: int  # of the prompts: instructions that a cache of prompts finds
    tokens: float
    attention_tokens: float  # sum of squared lengths of the samples

    @property
    def rows(self) -> int:
        return round(self.tokens / (ROW_TOKENS * FILL))

    @property
    def steps(self) -> int:
        return -(-self.rows // BATCH_ROWS)

    @property
    def gpu_hours(self) -> float:
        """H100-hours at the assumed utilisation: 6 FLOPs a parameter and token, and attention."""
        dense = 6 * PARAMETERS * self.tokens
        # Scores and values, forward and backward, over the causal half: 6 L h n^2 a sample.
        attention = 6 * LAYERS * HIDDEN * self.attention_tokens
        return (dense + attention) / (H100_FLOPS * UTILISATION) / 3600

    def dollars(self, model: str, batch: bool = True, cached: bool = False) -> float:
        """US dollars of all questions; ``cached``: instructions come from the prompt cache."""
        found = self.cached_tokens if cached else 0
        usage = Usage(self.prompt_tokens, self.reply_tokens, found)
        return load_price(model, None, batch).cost(usage)


def read_config(name: str) -> SynthesisConfig:
    """Read one rung's synthesis configuration."""
    return read_synthesis(LADDER / name / "synthesis.yaml")


def read_synthesis(path: Path) -> SynthesisConfig:
    """Read a synthesis configuration as the command does."""
    options = CommandParser("", SynthesisConfig).read(["--config", str(path)])
    return config_of(options, SynthesisConfig)


@cache
def rung(name: str) -> Rung:
    """Return the figures of one rung."""
    config = read_config(name)
    counts, prompts = config.mixture.counts(), load_prompts(config.openai.prompts)
    tokenizer, composition = load_tokenizer("mistral-v1"), config.composition
    asked = {kind: counts[kind] + n for kind, n in short_questions(counts).items()}
    asked = {kind: n for kind, n in asked.items() if n}
    evidence = {"fine_grained": SEGMENT_TOKENS, "integration": DOCUMENT_TOKENS}
    instructions = sum(n * len(tokenizer.encode(prompts.text(kind))) for kind, n in asked.items())
    prompt_tokens = instructions + sum(
        n * (CHAT_TOKENS + evidence[kind]) for kind, n in asked.items()
    )
    low, high = composition.min_tokens, composition.max_tokens
    long = counts["fine_grained"] + counts["integration"]
    short = DOCUMENT_TOKENS + config.openai.expected_answer_tokens
    tokens = long * (low + high) / 2
    tokens += counts["short"] * short + counts["instruction"] * INSTRUCTION_TOKENS
    squares = long * (high**3 - low**3) / (3 * (high - low))
    questions = sum(asked.values())
    replies = questions * config.openai.expected_answer_tokens
    samples = sum(counts.values())
    return Rung(samples, questions, prompt_tokens, replies, instructions, tokens, squares)


def ladder_table() -> list[tuple[str, ...]]:
    """Return the ladder's table, one row for each figure."""
    rungs = [rung(name) for name in RUNGS]
    samples = rungs[-1].samples
    rows: dict[str, list[str]] = {
        "samples": [f"{each.samples:,}" for each in rungs],
        "questions": [f"{each.questions:,}" for each in rungs],
        "dollars, `gpt-4-turbo`, batch": [f"{r.dollars('gpt-4-turbo'):,.0f}" for r in rungs],
        "dollars, `gpt-4o-mini`, batch": [f"{r.dollars('gpt-4o-mini'):,.1f}" for r in rungs],
        "hours at 10 replies a second": [f"{each.questions / 36_000:,.1f}" for each in rungs],
        "tokens of all samples": [f"{each.tokens / 1e9:,.2f} G" for each in rungs],
        "packed rows of 32,768": [f"{each.rows:,}" for each in rungs],
        "steps of 64 rows": [f"{each.steps:,}" for each in rungs],
        "GPU-hours, A100, the paper's in proportion": [
            f"{PAPER_GPU_HOURS * each.samples / samples:,.0f}" for each in rungs
        ],
        "GPU-hours, H100 at 40 % of its peak": [f"{each.gpu_hours:,.0f}" for each in rungs],
        "VaL average in the paper (base: 47.3)": [str(VAL_AVERAGES[name]) for name in RUNGS],
    }
    head = ("", *(f"`configs/ladder/{name}`" for name in RUNGS))
    return [head, *((label, *values) for label, values in rows.items())]


def price_table() -> list[tuple[str, ...]]:
    """Return the price of the whole mixture for every model of the prices file."""
    whole, models = rung("100pct"), yaml.safe_load(PACKAGED.read_text(encoding="utf-8"))["models"]
    head = ("model", "one by one", "Batch API", "one by one, instructions cached")
    rows = [
        (f"`{model}`", *(f"{dollars:,.0f}" for dollars in (
            whole.dollars(model, batch=False), whole.dollars(model),
            whole.dollars(model, batch=False, cached=True),
        )))
        for model in models
    ]  # fmt: skip
    return [head, *rows]
