r"""VaL probing: does a model find what stands in the middle of its context?

Examples:
    python tools/probe.py build --pieces PIECES --output probes --context-tokens 32000
    python tools/probe.py generate --model FILM-7B --probes probes/document.jsonl \
        --output predictions/FILM-7B/document.jsonl
    python tools/probe.py score --labels probes/document.jsonl \
        --predictions predictions/FILM-7B/document.jsonl --output scores/document.json
    python tools/probe.py plot --reports scores/document.json --output scores/document.png

"pieces" cuts a corpus of your own into document pieces; "build" makes the probes, "download" gets
the published ones; "generate" answers them with a Hugging Face checkpoint or an endpoint; "score"
gives the curve by evidence position, "compare" the paper's table, "plot" the figures.
"""

from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.build import BuildConfig, build_probes
from megatron_in2.evaluation.probing.published import PUBLISHED_DATASET, write_published_probes
from megatron_in2.evaluation.probing.report import (
    as_table,
    comparison_table,
    read_probe_report,
    write_probe_report,
)
from megatron_in2.evaluation.probing.score import PUBLISHED_SPAN, Grouping, score_predictions
from megatron_in2.evaluation.probing.tasks import TASKS
from megatron_in2.files import atomic_file
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer


def main() -> None:
    parser = CommandParser(__doc__)
    commands = parser.add_subcommands(dest="command")
    for name, (add, help_text, _) in _COMMANDS.items():
        commands.add_subcommand(name, add(), help=help_text)
    options = parser.read()
    _COMMANDS[options.command][2](options[options.command])


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
    add("--task", choices=list(TASKS), default="document", help="what is retrieved")
    add("--context-tokens", type=int, default=32_000, help="longest prompt in tokens")
    add("--units", type=int, default=0, help="units in a context; 0 takes as many as fit")
    add("--positions", type=int, default=0, help="positions asked for; 0 asks for every one")
    add("--sets", type=int, default=4, help="contexts")
    add("--seed", type=int, default=1234, help="draws the contexts")
    add("--tokenizer-model", default=MISTRAL_V1, help="counts the tokens")
    return parser


def _build(options: Any) -> None:
    names = ("task", "context_tokens", "units", "positions", "sets", "seed")
    config = BuildConfig(**{name: options[name] for name in names})
    tokenizer = load_tokenizer(options.tokenizer_model)
    written, skipped = build_probes(options.pieces, options.output, config, tokenizer)
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
    parser = CommandParser("Answer probes with a checkpoint or an endpoint; resumes.")
    add = parser.add_argument
    add("--model", type=Path, help="Hugging Face checkpoint directory")
    add("--endpoint", help="OpenAI-compatible base URL instead; key in OPENAI_API_KEY")
    add("--endpoint-model", help="the model's name there")
    add("--api", choices=["completions", "chat"], default="completions", help="of the endpoint")
    add("--concurrency", type=int, default=8, help="requests to the endpoint at once")
    add("--retries", type=int, default=5, help="of a request that the endpoint fails")
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

        config = EndpointConfig(
            url=options.endpoint,
            model=options.endpoint_model,
            api=options.api,
            concurrency=options.concurrency,
            retries=options.retries,
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
    add("--output", type=Path, required=True, help="report, JSON; a .md stands beside it")
    add("--name", help="of the model; the predictions' folder where not given")
    add("--task", choices=list(TASKS), help="of published labels, which name none")
    add("--span", type=int, default=PUBLISHED_SPAN, help="positions averaged together")
    add("--published", action="store_true", help="leave out each span's last, as the paper did")
    add("--bins", type=int, help="divide contexts into so many parts instead of spans")
    add("--skip-list", type=Path, help="JSON list of ambiguous lines, counted from 0")
    return parser


def _score(options: Any) -> None:
    report = score_predictions(
        options.labels,
        options.predictions,
        Grouping(options.span, options.published, options.bins),
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
    table = comparison_table([read_probe_report(path) for path in options.reports])
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


_COMMANDS = {
    "pieces": (_pieces_parser, "cut a corpus into document pieces", _pieces),
    "build": (_build_parser, "build probes from pieces", _build),
    "download": (_download_parser, "get the published probes", _download),
    "generate": (_generate_parser, "answer probes with a checkpoint or an endpoint", _generate),
    "score": (_score_parser, "score predictions by evidence position", _score),
    "compare": (_compare_parser, "set models and the paper's rows side by side", _compare),
    "plot": (_plot_parser, "draw the curves or a heat map", _plot),
}


if __name__ == "__main__":
    run_command(main)
