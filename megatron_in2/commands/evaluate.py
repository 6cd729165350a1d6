r"""Long- and short-context benchmarks: what did the training gain, and was anything else broken?

Examples:
    %(prog)s run --model FILM-7B --output scores/FILM-7B.json \
        --tasks narrativeqa csqa hellaswag
    %(prog)s score --task csqa --labels csqa_0shot.jsonl \
        --predictions FILM-7B/sample_csqa_0shot.jsonl --output scores/FILM-7B.json
    %(prog)s report --scores scores/FILM-7B.json --base scores/Mistral.json \
        --output scores/report.md

"run" goes through lm-evaluation-harness and takes its data from the Hugging Face hub or --data;
"score" scores files of predictions on their own; "report" adds the paper's columns.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import (
    CommandParser,
    Subcommand,
    config_of,
    run_command,
    run_subcommand,
    shown_choices,
)
from megatron_in2.errors import InputError
from megatron_in2.evaluation.benchmarks.catalogue import BENCHMARKS, score_benchmark
from megatron_in2.evaluation.benchmarks.harness_run import HarnessConfig, run_benchmarks
from megatron_in2.evaluation.benchmarks.report import (
    ModelScores,
    add_model_scores,
    benchmark_table,
    read_model_scores,
)
from megatron_in2.files import atomic_file


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments)


def _run_parser() -> CommandParser:
    parser = CommandParser("Run benchmarks on a Hugging Face checkpoint.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="checkpoint directory")
    names = list(BENCHMARKS)
    add("--tasks", nargs="+", metavar=shown_choices(names), default=names, help="which")
    add("--output", type=Path, required=True, help="scores, JSON")
    parser.add_options(HarnessConfig, "data", "limit", "batch_size", "template")
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
    add("--task", metavar=shown_choices(BENCHMARKS), required=True, help="whose metric")
    add("--labels", type=Path, required=True, help="JSON lines: answer or answers; candidates")
    add("--predictions", type=Path, required=True, help="JSON lines: samples or sample")
    add("--name", help="the model's; the predictions' folder where not given")
    add("--output", type=Path, help="scores, JSON; other tasks' scores in it are kept")
    return parser


def _score(options: Any) -> None:
    score = score_benchmark(options.task, options.labels, options.predictions)
    if options.output is not None:
        name = options.name or options.predictions.resolve().parent.name
        add_model_scores(ModelScores(name, {options.task: score}), options.output)
    nulls = f", {score.nulls} null left out" if score.nulls else ""
    print(f"{options.task}: {score.score:.2f} over {score.samples:,} predictions{nulls}")


def _report_parser() -> CommandParser:
    parser = CommandParser("Compare a model's scores with its base's and the paper's.")
    add = parser.add_argument
    add("--scores", type=Path, required=True, help="of the model")
    add("--base", type=Path, help="of the model it was trained from")
    add("--output", type=Path, required=True, help="table, Markdown")
    return parser


def _report(options: Any) -> None:
    base = None if options.base is None else read_model_scores(options.base)
    table = benchmark_table(read_model_scores(options.scores), base)
    with atomic_file(options.output) as stream:
        stream.write(table)
    print(table, end="")


SUBCOMMANDS = {
    "run": Subcommand("run benchmarks through lm-evaluation-harness", _run_parser, _run),
    "score": Subcommand("score a file of predictions", _score_parser, _score),
    "report": Subcommand("one table with the paper's columns", _report_parser, _report),
}


if __name__ == "__main__":
    run_command(main)
