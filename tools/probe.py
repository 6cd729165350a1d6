#!/usr/bin/env python3
r"""VaL probing: does a model find what stands in the middle of its context?

Examples:
    python tools/probe.py build --pieces PIECES --output probes --context-tokens 32000
    python tools/probe.py generate --model FILM-7B --probes probes/document.jsonl \
        --output predictions/document.jsonl
    python tools/probe.py score --labels probes/document.jsonl \
        --predictions predictions/document.jsonl --output scores/document.json
    python tools/probe.py plot --reports scores/document.json --output scores/document.png

"pieces" cuts a corpus of your own into document pieces; "build" makes the probes; "generate"
answers them with a Hugging Face checkpoint; "score" gives the curve by evidence position.
"""

from pathlib import Path
from typing import Any

from megatron_in2.command import CommandParser, run_command
from megatron_in2.evaluation.build import BuildConfig, build_probes
from megatron_in2.evaluation.score import as_table, score_predictions, write_probe_report
from megatron_in2.evaluation.tasks import TASKS
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.tokenizer import MISTRAL_V1, load_tokenizer


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
    from megatron_in2.evaluation.pieces import write_document_pieces

    count = write_document_pieces(options.corpus, options.output, options.seed)
    print(f"{count:,} sentences in {options.output}")


def _build_parser() -> CommandParser:
    parser = CommandParser("Build probes from pieces.")
    add = parser.add_argument
    add("--pieces", type=Path, required=True, help="folder with the published piece files")
    add("--output", type=Path, required=True, help="folder for the probes")
    add("--task", choices=list(TASKS), default="document", help="what is retrieved")
    add("--context-tokens", type=int, default=32_000, help="longest prompt in tokens")
    add("--positions", type=int, default=0, help="positions asked for; 0 asks for every one")
    add("--sets", type=int, default=4, help="contexts")
    add("--seed", type=int, default=1234, help="draws the contexts")
    add("--tokenizer-model", default=MISTRAL_V1, help="counts the tokens")
    return parser


def _build(options: Any) -> None:
    names = ("task", "context_tokens", "positions", "sets", "seed")
    config = BuildConfig(**{name: options[name] for name in names})
    tokenizer = load_tokenizer(options.tokenizer_model)
    written, skipped = build_probes(options.pieces, options.output, config, tokenizer)
    print(f"{written:,} {options.task} probes in {options.output}, {skipped} ambiguous skipped")


def _generate_parser() -> CommandParser:
    parser = CommandParser("Answer probes with a Hugging Face checkpoint; resumes.")
    add = parser.add_argument
    add("--model", type=Path, required=True, help="Hugging Face checkpoint directory")
    add("--probes", type=Path, required=True, help="probes that build wrote")
    add("--output", type=Path, required=True, help="predictions, JSON lines")
    add("--max-new-tokens", type=int, default=128, help="longest answer in tokens")
    return parser


def _generate(options: Any) -> None:
    from megatron_in2.evaluation.generate import generate_predictions

    count = generate_predictions(
        options.model, options.probes, options.output, options.max_new_tokens
    )
    print(f"{count:,} predictions in {options.output}")


def _score_parser() -> CommandParser:
    parser = CommandParser("Score predictions by evidence position.")
    add = parser.add_argument
    add("--labels", type=Path, required=True, help="probes that build wrote")
    add("--predictions", type=Path, required=True, help="predictions that answer them")
    add("--output", type=Path, required=True, help="report, JSON; a .md stands beside it")
    add("--bins", type=int, default=16, help="parts the context is divided in")
    return parser


def _score(options: Any) -> None:
    report = score_predictions(options.labels, options.predictions, options.bins)
    write_probe_report(report, options.output)
    print(as_table(report), end="")


def _plot_parser() -> CommandParser:
    parser = CommandParser("Draw the curves of one or more reports.")
    parser.add_argument("--reports", type=Path, nargs="+", required=True, help="from score")
    parser.add_argument("--output", type=Path, required=True, help="picture, .png or .svg")
    return parser


def _plot(options: Any) -> None:
    from megatron_in2.evaluation.plot import plot_reports

    plot_reports(options.reports, options.output)
    print(f"{options.output} is drawn")


_COMMANDS = {
    "pieces": (_pieces_parser, "cut a corpus into document pieces", _pieces),
    "build": (_build_parser, "build probes from pieces", _build),
    "generate": (_generate_parser, "answer probes with a checkpoint", _generate),
    "score": (_score_parser, "score predictions by evidence position", _score),
    "plot": (_plot_parser, "draw the curves", _plot),
}


if __name__ == "__main__":
    run_command(main)
