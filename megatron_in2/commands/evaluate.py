r"""Long- and short-context benchmarks: what did the training gain, and was anything else broken?

Examples:
    %(prog)s run --model FILM-7B --output scores/FILM-7B.json \
        --tasks narrativeqa csqa hellaswag
    %(prog)s score --task csqa --labels csqa_0shot.jsonl \
        --predictions FILM-7B/sample_csqa_0shot.jsonl --output scores/FILM-7B.json
    %(prog)s report --scores scores/FILM-7B.json --base scores/Mistral.json \
        --output scores/report.md --html scores/report.html \
        --reports scores/FILM-7B/*.json --answers probes/code.jsonl predictions/code.jsonl
    %(prog)s texts --output data/evaluation_texts.jsonl
    %(prog)s reproduce --film-repo ../FILM --output scores/reproduction.md

"run" goes through lm-evaluation-harness and takes its data from the Hugging Face hub or --data;
"score" scores files of predictions on their own; "report" adds the paper's columns and draws a
page; "reproduce" scores the predictions that the paper's authors published, to show that the
scorers agree.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from megatron_in2.choices import as_option, wrong_choice
from megatron_in2.commands.parser import (
    CommandParser,
    Subcommand,
    config_of,
    run_command,
    run_subcommand,
    shown_choices,
)
from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import (
    BENCHMARKS,
    Scorer,
    score_benchmark,
    score_datasets,
)
from megatron_in2.evaluation.benchmarks.harness_config import HarnessConfig
from megatron_in2.evaluation.benchmarks.harness_run import run_benchmarks
from megatron_in2.evaluation.benchmarks.report import (
    ModelScores,
    add_model_scores,
    benchmark_table,
    read_model_scores,
)
from megatron_in2.evaluation.benchmarks.suites import SUITES
from megatron_in2.evaluation.benchmarks.texts import write_evaluation_texts
from megatron_in2.evaluation.reproduction import reproduce, reproduction_table
from megatron_in2.files import atomic_file


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments)


def _run_parser() -> CommandParser:
    parser = CommandParser("Run benchmarks on a Hugging Face checkpoint.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    known = list(BENCHMARKS)
    add(
        "--tasks",
        nargs="+",
        metavar=shown_choices([*known, *SUITES]),
        default=known,
        help="which; suites only by name",
    )
    add("--output", type=Path, required=True, help="scores, JSON")
    data = ("data", "essays", "squad", "hotpotqa")
    others = ("limit", "batch_size", "template", "wording", "lengths", "max_length")
    parser.add_options(HarnessConfig, *data, *others)
    return parser


def _run(options: Any) -> None:
    scores, not_run = run_benchmarks(config_of(options, HarnessConfig))
    for name, reason in not_run.items():
        print(f"not run: {name}: {reason}")
    if not scores:
        raise InputError(
            f"none of {', '.join(options.tasks)} could be run: reach the hub, or give --data"
        )
    result = ModelScores(options.model.resolve().name, scores, not_run)
    add_model_scores(result, options.output)
    print(benchmark_table(result, base=None), end="")


def _score_parser() -> CommandParser:
    parser = CommandParser("Score a file of predictions.")
    add = parser.add_argument
    add(
        "--task",
        metavar=shown_choices(BENCHMARKS),
        help="whose metric; by default every data set in the labels is scored by itself",
    )
    add("--labels", type=Path, required=True, help="JSON lines: answer, answers or completion")
    add("--predictions", type=Path, required=True, help="JSON lines: samples or sample")
    add(
        "--scorer",
        choices=get_args(Scorer),
        default="standard",
        help="film: by the rules of FILM's own scripts, which differ for gsm8k and math",
    )
    add("--name", help="the model's; the predictions' folder where not given")
    add("--output", type=Path, help="scores, JSON; other tasks' scores in it are kept")
    return parser


def _score(options: Any) -> None:
    files = options.labels, options.predictions, options.scorer
    if options.task is None:
        scores = score_datasets(*files)
    else:
        scores = {options.task: score_benchmark(options.task, *files)}
    if options.output is not None:
        name = options.name or options.predictions.resolve().parent.name
        add_model_scores(ModelScores(name, scores), options.output)
    for task, score in scores.items():
        nulls = f", {score.nulls} null left out" if score.nulls else ""
        print(f"{task}: {score.score:.2f} over {score.samples:,} predictions{nulls}")


def _report_parser() -> CommandParser:
    parser = CommandParser("Compare a model's scores with its base's and the paper's.")
    add = parser.add_argument
    add("--scores", type=Path, help="of the model on benchmarks")
    add("--base", type=Path, help="of the model it was trained from")
    add("--output", type=Path, help="table of --scores, Markdown")
    add("--html", type=Path, help="page with curves, tables and answers; it needs no network")
    add("--reports", type=Path, nargs="+", default=[], help="for --html: from in2 probe score")
    add(
        "--answers",
        type=Path,
        nargs="+",
        default=[],
        help="for --html: answers to browse: probes and their predictions, in pairs",
    )
    return parser


def _report(options: Any) -> None:
    if options.output is None and options.html is None:
        raise InputError("give --output TABLE.md, --html PAGE.html, or both")
    if options.output is not None and options.scores is None:
        raise InputError("--output is the table of --scores: give them")
    scores, base = (
        None if path is None else read_model_scores(path) for path in (options.scores, options.base)
    )
    if options.html is not None:
        from megatron_in2.evaluation.page import read_answers, write_page

        if len(options.answers) % 2:
            raise InputError("--answers: give each file of probes with its predictions behind it")
        pairs = zip(options.answers[::2], options.answers[1::2], strict=True)
        answers = [read_answers(*files) for files in pairs]
        write_page(options.html, options.reports, scores, base, answers)
        print(f"{options.html} is written")
    if options.output is not None and scores is not None:
        table = benchmark_table(scores, base)
        with atomic_file(options.output) as stream:
            stream.write(table)
        print(table, end="")


def _reproduce_parser() -> CommandParser:
    parser = CommandParser("Score the predictions that the FILM repository publishes.")
    add = parser.add_argument
    add("--film-repo", type=Path, required=True, help="a clone of github.com/microsoft/FILM")
    add("--labels", type=Path, help="folder with labels that the clone lacks: NAME.jsonl")
    add("--output", type=Path, help="table, Markdown")
    return parser


def _reproduce(options: Any) -> None:
    entries = reproduce(options.film_repo, options.labels)
    if options.output is not None:
        with atomic_file(options.output) as stream:
            stream.write(reproduction_table(entries, "markdown"))
    print(reproduction_table(entries, "terminal" if sys.stdout.isatty() else "none"), end="")


def _texts_parser() -> CommandParser:
    parser = CommandParser("Write the benchmarks' texts, to keep them out of training data.")
    add = parser.add_argument
    names = list(BENCHMARKS)
    add("--tasks", nargs="+", metavar=shown_choices(names), default=names, help="which")
    add("--data", type=Path, help="folder with NAME.jsonl instead of the hub")
    add("--output", type=Path, required=True, help="JSON lines, for decontamination.paths")
    return parser


def _texts(options: Any) -> None:
    for name in options.tasks:
        if name not in BENCHMARKS:
            raise wrong_choice(as_option("tasks", name), tuple(BENCHMARKS))
    counts, missing = write_evaluation_texts(options.tasks, options.data, options.output)
    for name, reason in missing.items():
        print(f"not written: {name}: {reason}")
    for name, count in counts.items():
        print(f"{name:>18} {count:>8,} rows")
    print(f"{options.output} is complete: name it in decontamination.paths")


SUBCOMMANDS = {
    "run": Subcommand("run benchmarks through lm-evaluation-harness", _run_parser, _run),
    "score": Subcommand("score a file of predictions", _score_parser, _score),
    "report": Subcommand("one table with the paper's columns", _report_parser, _report),
    "texts": Subcommand("the benchmarks' texts, for decontamination", _texts_parser, _texts),
    "reproduce": Subcommand("score the paper's predictions", _reproduce_parser, _reproduce),
}


if __name__ == "__main__":
    run_command(main)
