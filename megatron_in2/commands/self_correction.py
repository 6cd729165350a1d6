r"""Make samples of self-correction: attempts of a model, verified, and corrected where wrong.

Examples:
    %(prog)s self-correction --model runs/hf \
        --samples data/in2.jsonl --output data/corrections.jsonl
    %(prog)s self-correction --base-url http://localhost:8000/v1 --served-model in2 \
        --samples data/in2.jsonl --output data/corrections.jsonl --judge number

Draws several attempts at each sample from the model to be trained, judges them against the
sample's own answer, and writes right ones with a verification, wrong ones (in ``attempt``, which
is not trained on) with verification and correction, and plain samples. Preprocess the output with
--design partial-answer-masking. Attempts are kept in OUTPUT.attempts.jsonl: a stopped run
continues from there.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.data.packing.encoding.samples import SampleReader
from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines
from megatron_in2.synthesis.llm.config import OpenAIConfig
from megatron_in2.synthesis.pipeline import journal_path
from megatron_in2.synthesis.self_correction.config import SelfCorrectionConfig
from megatron_in2.synthesis.self_correction.endpoint import EndpointAttempts
from megatron_in2.synthesis.self_correction.run import make_self_corrections
from megatron_in2.synthesis.self_correction.servers import ModelServers
from megatron_in2.synthesis.self_correction.tasks import AttemptDrawer, Task, require_no_attempt
from megatron_in2.synthesis.self_correction.teacher import Teacher
from megatron_in2.templates.base import Template
from megatron_in2.templates.load import BASE, load_template
from megatron_in2.templates.wordings import WordingName
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer


@dataclass(frozen=True)
class _Source:
    """Where attempts come from, and where the samples are.

    Args:
        samples: JSON lines of any form, as synthesis writes them.
        output: samples with attempts and plain ones, JSON lines.
        model: Hugging Face checkpoint directory, the model to be trained.
        base_url: OpenAI-compatible server instead; its key in OPENAI_API_KEY.
        served_model: the model's name there.
        concurrency: of each server: requests under way at once.
        teacher_url: server of a second model, for --judge model and --correct-by writer; with
            --teacher-model alone OpenAI's own.
        teacher_model: the second model's name there; it sees question, answer and evidence only.
        max_cost: of servers: US dollars that all runs with this journal may spend.
        prices: of servers: YAML file of prices that replaces the package's.
        tokenizer_model: of servers: counts the tokens of prompts.
        template: under which samples are written; the checkpoint's own where none is named.
        wording: of a user's message inside a base's own chat template.
        overwrite: replace an output that exists; attempts are kept.
    """

    samples: Path
    output: Path
    model: Path | None = None
    base_url: str | None = None
    served_model: str | None = None
    concurrency: int = 16
    teacher_url: str | None = None
    teacher_model: str | None = None
    max_cost: float | None = None
    prices: Path | None = None
    tokenizer_model: str = MISTRAL_V1
    template: str | None = None
    wording: WordingName = "film"
    overwrite: bool = False

    def __post_init__(self) -> None:
        if (self.model is None) == (self.base_url is None):
            raise InputError("give --model, or --base-url with --served-model")
        if (self.base_url is None) != (self.served_model is None):
            raise InputError("--base-url and --served-model belong together: give both")
        if self.teacher_url is not None and self.teacher_model is None:
            raise InputError("--teacher-url needs --teacher-model: give both")
        if self.concurrency < 1:
            raise InputError(f"--concurrency {self.concurrency}: give 1 or more")

    def server(self, model: str, base_url: str | None) -> OpenAIConfig:
        """Return how a model is asked."""
        return OpenAIConfig(
            model=model, base_url=base_url, concurrency=self.concurrency, prices=self.prices
        )


def self_correction_parser() -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_options(_Source)
    parser.add_options(SelfCorrectionConfig)
    return parser


def make_samples(options: Any) -> None:
    source = config_of(options, _Source)
    config = config_of(options, SelfCorrectionConfig)
    tokenizer = load_tokenizer(str(source.model or source.tokenizer_model))
    name = source.template or (str(source.model) if source.model else BASE)
    template = load_template(name, tokenizer, source.wording)

    def tasks() -> Iterator[Task]:
        return read_tasks(source.samples, template)

    if config.needs_teacher and source.teacher_model is None:
        raise InputError("--judge model and --correct-by writer ask a model: give --teacher-model")
    with ExitStack() as stack:
        servers: ModelServers | None = None
        if source.base_url is not None or config.needs_teacher:
            journal = journal_path(source.output)
            resembled = template.wording.with_context
            servers = stack.enter_context(ModelServers(journal, source.max_cost, resembled))
        drawer = _drawer(source, config, tokenizer, template, servers)
        teacher = None
        if config.needs_teacher:
            assert servers is not None
            server = source.server(str(source.teacher_model), source.teacher_url)
            teacher = Teacher(servers.open(server, tokenizer))
        made = make_self_corrections(
            config, drawer, source.samples, tasks, source.output, source.overwrite, teacher
        )
    _print_report(made.report)
    print(f"{made.output} is complete")


def _drawer(
    source: _Source,
    config: SelfCorrectionConfig,
    tokenizer: Tokenizer,
    template: Template,
    servers: ModelServers | None,
) -> AttemptDrawer:
    if source.model is not None:
        # Imported here: torch and transformers take seconds that an endpoint does not need.
        from megatron_in2.evaluation.attempts import CheckpointAttempts
        from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer

        answerer = CheckpointAnswerer(source.model, config.max_new_tokens)
        return CheckpointAttempts(answerer, template, config)
    assert servers is not None
    server = servers.open(source.server(str(source.served_model), source.base_url), tokenizer)
    return EndpointAttempts(server, config, template.wording)


def read_tasks(path: Path, template: Template) -> Iterator[Task]:
    """Read samples of any form; a bad one is named by file, line, field and value."""
    reader = SampleReader(template)
    for where, record in read_json_lines(path):
        require_no_attempt(where, record)
        yield Task(where, record, reader.read(record, where, path.parent))


def _print_report(report: dict[str, Any]) -> None:
    for name, count in report["samples"].items():
        print(f"{name:>14} {count:>9,} samples")
    for reason, count in (*report["dropped"].items(), *report["unusable_attempts"].items()):
        print(f"{'not used':>14} {count:>9,} {reason}")
    for each in report["accuracy_by_position"]:
        if each["attempts"]:
            place = f"{each['from']:.2f} to {each['to']:.2f}"
            print(f"{place:>14} {each['attempts']:>9,} attempts, {each['accuracy']:.1%} right")
    accuracy = report["accuracy"]
    if accuracy is not None:
        print(f"{'all':>14} {sum(report['attempts'].values()):>9,} attempts, {accuracy:.1%} right")
