r"""Make samples for Prompt Erasing: answers that a teacher reasons by a strategy for each kind.

Examples:
    OPENAI_API_KEY=... %(prog)s erasure --teacher-model gpt-4-turbo --judge model \
        --judge-model gpt-4.1-mini --samples data/in2.jsonl --output data/reasoned.jsonl \
        --pilot 50 --max-cost 20
    OPENAI_API_KEY=... %(prog)s erasure --teacher-model gpt-4-turbo --judge model \
        --judge-model gpt-4.1-mini --samples data/in2.jsonl --output data/reasoned.jsonl \
        --max-cost 500
    %(prog)s erasure --teacher-url http://localhost:8000/v1 --teacher-model big \
        --samples data/tasks.jsonl --output data/reasoned.jsonl --kind-judges math=number --pilot 50

Two steps. --pilot N tries every strategy on N samples of each kind, judges the final answers by the
samples' own, and writes the best strategy of each kind to OUTPUT.choice.yaml, which you may edit.
Without --pilot all samples are answered by the strategies of that file. The teacher sees the
strategy's prompt, the question and the evidence; the sample keeps its long context. Answers that
are wrong or mention the prompt are dropped. Preprocess the output with --design prompt-erasing.
Every answer is in OUTPUT.journal.sqlite: a stopped run continues from there.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.commands.self_correction import read_tasks
from megatron_in2.errors import InputError
from megatron_in2.synthesis.erasure.choice import Scores, read_choice
from megatron_in2.synthesis.erasure.config import ErasureConfig
from megatron_in2.synthesis.erasure.judging import KindJudges
from megatron_in2.synthesis.erasure.run import (
    ErasurePilot,
    choice_path,
    counted_kinds,
    make_erased_samples,
    try_strategies,
)
from megatron_in2.synthesis.erasure.strategies import load_strategies
from megatron_in2.synthesis.erasure.trials import Trials
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.pipeline import journal_path
from megatron_in2.synthesis.self_correction.servers import ModelServers
from megatron_in2.synthesis.self_correction.tasks import Task
from megatron_in2.synthesis.self_correction.teacher import Teacher
from megatron_in2.templates.base import Template
from megatron_in2.templates.load import BASE, load_template
from megatron_in2.templates.wordings import WordingName
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer


@dataclass(frozen=True)
class _Erasure:
    """What is asked of whom, and where the samples are.

    Args:
        samples: JSON lines of text, chat and recipe samples, as synthesis writes them.
        output: samples with reasoned answers, JSON lines.
        teacher_model: the name of the model that answers.
        teacher_url: its OpenAI-compatible server, its key in OPENAI_API_KEY; OpenAI's own where
            none is named.
        judge_model: for the judge model: its name; it sees question and both answers.
        judge_url: its server.
        pilot: only try all strategies, on so many samples of each kind, and write the choice.
        choice: the strategy of each kind, YAML; OUTPUT.choice.yaml where none is named.
        concurrency: of each server: requests under way at once.
        max_cost: US dollars that all runs with this journal may spend.
        prices: YAML file of prices that replaces the package's.
        tokenizer_model: counts the tokens of prompts.
        template: under which samples are written.
        wording: of a user's message inside a base's own chat template.
        overwrite: replace an output or a choice that exists; paid answers stay in the journal.
    """

    samples: Path
    output: Path
    teacher_model: str
    teacher_url: str | None = None
    judge_model: str | None = None
    judge_url: str | None = None
    pilot: int | None = None
    choice: Path | None = None
    concurrency: int = 16
    max_cost: float | None = None
    prices: Path | None = None
    tokenizer_model: str = MISTRAL_V1
    template: str = BASE
    wording: WordingName = "film"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise InputError(f"--concurrency {self.concurrency}: give 1 or more")
        if self.pilot is not None and self.pilot < 1:
            raise InputError(f"--pilot {self.pilot}: give 1 or more samples of each kind")
        if self.judge_url is not None and self.judge_model is None:
            raise InputError("--judge-url needs --judge-model: give both")
        written = self.output if self.pilot is None else self.choice_file
        if written.exists() and not self.overwrite:
            raise InputError(f"{written} already exists: pass --overwrite or name another one")

    @property
    def choice_file(self) -> Path:
        """The file of the choice."""
        return self.choice or choice_path(self.output)

    def server(self, model: str, base_url: str | None) -> OpenAIConfig:
        """Return how a model is asked."""
        return OpenAIConfig(
            model=model, base_url=base_url, concurrency=self.concurrency, prices=self.prices
        )


def erasure_parser() -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_options(_Erasure)
    parser.add_options(ErasureConfig)
    return parser


def make_erased(options: Any) -> None:
    source, config = config_of(options, _Erasure), config_of(options, ErasureConfig)
    if config.needs_judge and source.judge_model is None:
        raise InputError("--judge model asks a model: give --judge-model")
    strategies = load_strategies(config.strategies)
    tokenizer = load_tokenizer(source.tokenizer_model)
    template = load_template(source.template, tokenizer, source.wording)

    def tasks() -> Iterator[Task]:
        return _tasks(source.samples, template)

    kinds = counted_kinds(tasks())
    _require_kinds(kinds, source.samples, config)
    choice = None
    if source.pilot is None:
        choice = read_choice(source.choice_file, strategies, kinds)
    resembled = "\n".join(each.prompt for each in strategies.values())
    with ModelServers(journal_path(source.output), source.max_cost, resembled) as servers:
        judge = None
        if config.needs_judge:
            asked = source.server(str(source.judge_model), source.judge_url)
            judge = Teacher(servers.open(asked, tokenizer))
        server = servers.open(source.server(source.teacher_model, source.teacher_url), tokenizer)
        trials = Trials(server, KindJudges(config, judge), config, template.wording)
        if choice is None:
            assert source.pilot is not None
            pilot = try_strategies(
                trials,
                strategies,
                tasks,
                source.output,
                source.pilot,
                config.seed,
                source.choice_file,
            )
            _print_pilot(pilot, kinds)
        else:
            _print_report(make_erased_samples(trials, choice, tasks, source.output, kinds.total()))
        print(servers.summary().line())
    print(f"{source.choice_file if choice is None else source.output} is complete")


def _tasks(path: Path, template: Template) -> Iterator[Task]:
    for task in read_tasks(path, template):
        if task.record.get("strategy") is not None:
            raise InputError(
                f"{task.where}: field 'strategy' is given: a teacher has answered this sample "
                "already; name the samples from before"
            )
        yield task


def _require_kinds(kinds: Counter[str], samples: Path, config: ErasureConfig) -> None:
    """Check that there are samples, and some of every kind that has a judge of its own."""
    if not kinds:
        raise InputError(f"--samples {samples} holds no sample")
    for kind, judge in config.judges.items():
        if kind not in kinds:
            raise InputError(
                f"--kind-judges {kind}={judge}: no sample is of this kind: use {', '.join(kinds)}"
            )


def _print_pilot(pilot: ErasurePilot, kinds: Counter[str]) -> None:
    _print_scores(pilot.scores, pilot.choice)
    whole = 0.0
    for kind, name in pilot.choice.items():
        if name is None:
            print(f"{kind:>14} no strategy: its {kinds[kind]:,} samples stay as they are")
            continue
        score = pilot.scores[kind][name]
        whole += (price := score.cost / score.asked * kinds[kind])
        print(f"{kind:>14} {name:<24} ${price:,.2f} for all {kinds[kind]:,} samples")
    print(f"{'whole':>14} ${whole:,.2f}, without a judge")


def _print_scores(scores: Scores, choice: Mapping[str, str | None]) -> None:
    for kind, of_kind in sorted(scores.items()):
        for name, score in of_kind.items():
            mark = "*" if choice[kind] == name else " "
            print(
                f"{kind:>14} {mark} {name:<24} {score.right:>5,} of {score.tried:,} right "
                f"({score.correctness:.0%}), ${score.cost:.4f}, {score.tokens:,} tokens"
            )


def _print_report(report: dict[str, Any]) -> None:
    for kind, each in report["kinds"].items():
        if each["strategy"] is None:
            print(f"{kind:>14} stays as it is")
            continue
        print(
            f"{kind:>14} {each['strategy']:<24} {each['right']:>7,} of {each['tried']:,} right "
            f"({each['correctness']:.0%}), ${each['cost']:.4f}"
        )
    for name, count in report["samples"].items():
        print(f"{name:>14} {count:>9,} samples")
    for reason, count in report["dropped"].items():
        print(f"{'dropped':>14} {count:>9,} {reason}")
