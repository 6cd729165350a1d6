r"""VaL probing: does a model find what is in the middle of its context?

Examples:
    %(prog)s build --pieces PIECES --output probes --context-tokens 32000
    %(prog)s generate --model FILM-7B --probes probes/document.jsonl \
        --output predictions/FILM-7B/document.jsonl
    %(prog)s score --labels probes/document.jsonl \
        --predictions predictions/FILM-7B/document.jsonl --output scores/document.json
    %(prog)s plot --reports scores/document.json --output scores/document.png

"pieces" cuts a corpus of your own into document pieces; "build" makes the probes, "download" gets
the published ones; "generate" answers them with a Hugging Face checkpoint or an endpoint; "score"
gives the curve by evidence position, "compare" the paper's table, "plot" the figures.
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
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.fill import fill_table, fullest
from megatron_in2.evaluation.probing.published import PUBLISHED_DATASET, write_published_probes
from megatron_in2.evaluation.probing.report import (
    as_table,
    comparison_table,
    read_probe_report,
    write_probe_report,
)
from megatron_in2.evaluation.probing.score import Grouping, score_predictions
from megatron_in2.evaluation.probing.tasks import TASKS
from megatron_in2.files import atomic_file
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.templates.load import BASE, load_template
from megatron_in2.templates.wordings import WORDINGS
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments)


def _pieces_parser() -> CommandParser:
    parser = CommandParser("Cut a corpus into document pieces.", SynthesisConfig)
    parser.add_argument("--output", type=Path, required=True, help="folder for the pieces")
    return parser


def _pieces(options: Any) -> None:
    from megatron_in2.evaluation.probing.pieces import write_document_pieces

    count = write_document_pieces(options.corpus, options.output, options.seed)
    print(f"{count:,} sentences in {options.output}")


def _build_parser() -> CommandParser:
    parser = CommandParser("Build probes from pieces.")
    add = parser.add_argument
    add("--pieces", type=Path, required=True, help="folder with the published piece files")
    add("--output", type=Path, required=True, help="folder for the probes")
    parser.add_options(BuildConfig)
    add("--tokenizer-model", default=MISTRAL_V1, help="counts the tokens")
    add(
        "--template",
        default=BASE,
        help="base (the chat template beside the tokenizer; film where there is none), film, "
        "chatml, a YAML file, or a directory with a template",
    )
    add(
        "--wording",
        default="film",
        metavar=shown_choices(WORDINGS),
        help="of a user's message inside a base's own chat template",
    )
    return parser


def _build(options: Any) -> None:
    config = config_of(options, BuildConfig)
    tokenizer = load_tokenizer(options.tokenizer_model)
    template = load_template(options.template, tokenizer, options.wording)
    written, skipped = build_probes(options.pieces, options.output, config, tokenizer, template)
    print(f"{written:,} {options.task} probes in {options.output}, {skipped} ambiguous skipped")


def _download_parser() -> CommandParser:
    parser = CommandParser("Write the published probes in our form.")
    add = parser.add_argument
    add("--dataset", default=PUBLISHED_DATASET, help="on the hub, or a local folder")
    add("--output", type=Path, required=True, help="folder for the probes")
    return parser


def _download(options: Any) -> None:
    for task, count in write_published_probes(options.dataset, options.output).items():
        print(f"{count:,} {task} probes in {options.output}")


def _generate_parser() -> CommandParser:
    # Imported here: the client of the OpenAI API takes a second to load.
    from megatron_in2.evaluation.probing.endpoint_answers import EndpointConfig

    parser = CommandParser("Answer probes with a checkpoint or an endpoint; resumes.")
    add = parser.add_argument
    add("--model", type=Path, help="Hugging Face checkpoint directory")
    add("--endpoint", help="OpenAI-compatible base URL instead; key in OPENAI_API_KEY")
    add("--endpoint-model", help="the model's name there")
    parser.add_options(EndpointConfig, "api", "concurrency", "retries")
    add("--probes", type=Path, required=True, help="probes that build wrote")
    add("--output", type=Path, required=True, help="predictions, JSON lines")
    add("--max-new-tokens", type=int, default=128, help="longest answer in tokens")
    add("--batch-size", type=int, default=1, help="probes that a checkpoint answers at a time")
    return parser


def _generate(options: Any) -> None:
    from megatron_in2.evaluation.probing.generate import Answerer, generate_predictions

    answerer: Answerer
    if options.model is not None and options.endpoint is None:
        from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer

        answerer = CheckpointAnswerer(options.model, options.max_new_tokens, options.batch_size)
    elif options.endpoint is not None and options.endpoint_model and options.model is None:
        from megatron_in2.evaluation.probing.endpoint_answers import (
            EndpointAnswerer,
            EndpointConfig,
        )

        config = config_of(
            options, EndpointConfig, url=options.endpoint, model=options.endpoint_model
        )
        answerer = EndpointAnswerer(config, options.max_new_tokens)
    else:
        raise InputError("give either --model, or --endpoint and --endpoint-model")
    count = generate_predictions(answerer, options.probes, options.output)
    print(f"{count:,} predictions in {options.output}")


def _score_parser() -> CommandParser:
    parser = CommandParser("Score predictions by evidence position.")
    add = parser.add_argument
    add("--labels", type=Path, required=True, help="probes that build wrote, or published ones")
    add("--predictions", type=Path, required=True, help="predictions that answer them")
    add("--output", type=Path, required=True, help="report, JSON; beside it the table, .md")
    add("--name", help="of the model; the predictions' folder where not given")
    add("--task", metavar=shown_choices(TASKS), help="of published labels, which name none")
    parser.add_options(Grouping)
    add("--skip-list", type=Path, help="JSON list of ambiguous lines, counted from 0")
    return parser


def _score(options: Any) -> None:
    report = score_predictions(
        options.labels,
        options.predictions,
        config_of(options, Grouping),
        task_name=options.task,
        skip_list=options.skip_list,
        name=options.name,
    )
    write_probe_report(report, options.output)
    print(as_table(report), end="")


def _compare_parser() -> CommandParser:
    parser = CommandParser("Set models side by side, the paper's among them.")
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="from score")
    parser.add_argument("--output", type=Path, required=True, help="table, Markdown")
    return parser


def _compare(options: Any) -> None:
    reports = [read_probe_report(path) for path in options.reports]
    table = comparison_table(fullest(reports))
    if by_fill := fill_table(reports):
        table += f"\n{by_fill}"
    with atomic_file(options.output) as stream:
        stream.write(table)
    print(table, end="")


def _plot_parser() -> CommandParser:
    parser = CommandParser("Draw the curves of one or more reports.")
    add = parser.add_argument
    add("--reports", type=Path, nargs="+", required=True, help="from score")
    add("--output", type=Path, required=True, help="picture, .png or .svg")
    add("--paper-averages", action="store_true", help="draw the paper's averages as lines")
    add("--heat-map", action="store_true", help="one model's accuracy by length and depth")
    return parser


def _plot(options: Any) -> None:
    from megatron_in2.evaluation.probing.plot import plot_curves, plot_heat_map

    if options.heat_map:
        plot_heat_map(options.reports, options.output)
    else:
        plot_curves(options.reports, options.output, options.paper_averages)
    print(f"{options.output} is drawn")


SUBCOMMANDS = {
    "pieces": Subcommand("cut a corpus into document pieces", _pieces_parser, _pieces),
    "build": Subcommand("build probes from pieces", _build_parser, _build),
    "download": Subcommand("get the published probes", _download_parser, _download),
    "generate": Subcommand(
        "answer probes with a checkpoint or an endpoint", _generate_parser, _generate
    ),
    "score": Subcommand("score predictions by evidence position", _score_parser, _score),
    "compare": Subcommand(
        "set models and the paper's rows side by side", _compare_parser, _compare
    ),
    "plot": Subcommand("draw the curves or a heat map", _plot_parser, _plot),
}


if __name__ == "__main__":
    run_command(main)
