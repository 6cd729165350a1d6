r"""Make IN2 samples from a corpus: segments, questions, long contexts composed around them.

Examples:
    %(prog)s --config megatron_in2/quickstart/synthesis.yaml \
        --output runs/samples.jsonl
    OPENAI_API_KEY=... %(prog)s --config configs/in2_film.yaml \
        --output data/in2.jsonl --pilot 200
    OPENAI_API_KEY=... %(prog)s --config configs/in2_film.yaml \
        --output data/in2.jsonl --shard 3 --num-shards 16 --max-cost 500

Ctrl-C and SIGTERM end a run after the replies under way have arrived; a second one ends it at once.
Writes the samples (JSON lines), the segment store OUTPUT.segments, OUTPUT.report.json / .png,
OUTPUT.rejects.jsonl, OUTPUT.dropped_documents.jsonl and, for paid writers,
OUTPUT.journal.sqlite. Run a stopped run again with the same options and it continues; no answer in
the journal is asked for again. A shard's output is named X.00003-of-00016.jsonl.
"fetch" reads data sets of the hub once for all shards; shards do it themselves where nobody did.
"self-correction" makes samples of a model's attempts, "erasure" samples with answers that a teacher
reasons by a strategy (erasure --help). What is described here is "samples", which runs where no
subcommand is named.
"""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from megatron_in2.commands.erasure import erasure_parser, make_erased
from megatron_in2.commands.parser import (
    CommandParser,
    Subcommand,
    called_as,
    config_of,
    run_command,
    run_subcommand,
)
from megatron_in2.commands.self_correction import make_samples, self_correction_parser
from megatron_in2.errors import EXIT_INTERRUPTED, EXIT_REQUEUE, InputError
from megatron_in2.processes import exit_at_once, heeded_signals
from megatron_in2.shards import Shard
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.estimate import Estimate, estimate_run
from megatron_in2.synthesis.fetch import fetched_folders
from megatron_in2.synthesis.llm.journal.journal import JournalSummary
from megatron_in2.synthesis.pilot import SHOWN_SAMPLES, Pilot, run_pilot
from megatron_in2.synthesis.pipeline import RunOptions, Tally, synthesize


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments, default="samples")


def _samples_parser() -> CommandParser:
    parser = CommandParser(__doc__, SynthesisConfig)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="samples, JSON lines")
    parser.add_options(RunOptions, "materialize", "overwrite", "workers", "max_cost")
    add("--shard", type=int, default=0, help="which part of the work to do, from 0")
    add("--num-shards", type=int, default=1, help="parts that the work is divided in")
    add("--dry-run", action="store_true", help="estimate tokens and price without a call")
    add(
        "--pilot",
        type=int,
        help="ask so many questions only; show what becomes of them, and prices",
    )
    return parser


def _samples(options: Any) -> int:
    config = config_of(options, SynthesisConfig)
    run = config_of(options, RunOptions, shard=Shard(options.shard, options.num_shards))
    _warn_of_contamination(config)
    if options.dry_run and options.pilot is not None:
        raise InputError("--dry-run calls nobody and --pilot does: give one of them")
    if options.dry_run:
        _print_estimate(estimate_run(config, options.output, run))
        return 0
    return _stoppable(lambda: _run(config, options.output, run, options.pilot))


_FETCH = """Read the hub's data sets of a configuration once, divided among the shards of a run.

Example:
    %(prog)s fetch --config configs/in2_film.yaml --output data/in2.jsonl --num-shards 16

Writes X.corpus and X.instructions beside the output X.jsonl. The shards of that output read them;
while they are being written, shards wait. Shards that find none fetch themselves: the first one for
all. Fetch before where compute nodes have no network.
"""


def _fetch_parser() -> CommandParser:
    parser = CommandParser(_FETCH, SynthesisConfig)
    add = parser.add_argument
    add("--output", type=Path, required=True, help="the samples that the shards will write")
    add("--num-shards", type=int, default=1, help="parts that the work will be divided in")
    add("--overwrite", action="store_true", help="fetch again what was fetched before")
    return parser


def _fetch(options: Any) -> int:
    config = config_of(options, SynthesisConfig)
    config.validate()
    shards = Shard(0, options.num_shards).count
    folders = fetched_folders(config, options.output, shards)
    if not folders:
        print("nothing to fetch: the configuration takes nothing from the hub")

    def work() -> None:
        for folder in folders.values():
            records = folder.fetch(options.overwrite)
            print(f"{folder.path} holds {records:,} records for {shards} shards")

    return _stoppable(work)


def _run(config: SynthesisConfig, output: Path, run: RunOptions, pilot: int | None) -> None:
    if pilot is None:
        _print_tally(synthesize(config, output, run))
    else:
        _print_pilot(run_pilot(config, output, run, pilot))


def _warn_of_contamination(config: SynthesisConfig) -> None:
    if not config.decontamination.paths and config.corpus.source != "python":
        print(
            "warning: decontamination.paths is empty: texts of your evaluation sets may get into "
            "the samples; write them with: in2 evaluate texts --output FILE",
            file=sys.stderr,
        )


def _stoppable(work: Callable[[], None]) -> int:
    """Do paid work; a stop signal ends it in an orderly way. Return the exit code."""
    earlier = {number: signal.signal(number, _stop) for number in heeded_signals()}
    try:
        work()
    except _StoppedError as stopped:
        print(f"{called_as()}: stopped by {stopped}: run again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED if stopped.number == signal.SIGINT else EXIT_REQUEUE
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return 0


class _StoppedError(BaseException):
    """A signal asks the run to end; like KeyboardInterrupt, nothing but the command handles it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _stop(number: int, frame: FrameType | None) -> None:
    for each in heeded_signals():
        signal.signal(each, lambda number, _: exit_at_once(number, "replies under way are lost"))
    raise _StoppedError(number)


def _print_tally(tally: Tally) -> None:
    for kind, count in tally.made.items():
        print(f"{kind:>14} {count:>9,} samples")
    for reason, count in sorted(tally.dropped.items()):
        print(f"{'dropped':>14} {count:>9,} {reason}")
    if tally.calls is not None:
        print(JournalSummary(**tally.calls).line())
    print(f"{tally.output} is complete")


def _print_pilot(pilot: Pilot) -> None:
    for kind in pilot.kinds:
        for sample in kind.samples[: -(-SHOWN_SAMPLES // len(pilot.kinds))]:
            print(f"--- {sample.id}\n{sample.evidence}")
            print(f"QUESTION: {sample.question}\n  ANSWER: {sample.answer}\n")
    for kind in pilot.kinds:
        share = f"{kind.accepted / kind.asked:.0%}" if kind.asked else "-"
        print(f"{kind.kind:>14} {kind.accepted:>9,} of {kind.asked:,} questions accepted ({share})")
        for reason, count in kind.dropped.most_common():
            print(f"{'dropped':>14} {count:>9,} {reason}")
    for name, price in pilot.prices.items():
        print(f"{name:>14} {'$' + format(price, ',.2f'):>9} for all samples of the mixture")
    if pilot.prices:
        print(f"{'whole':>14} {'$' + format(sum(pilot.prices.values()), ',.2f'):>9}")


def _print_estimate(estimate: Estimate) -> None:
    print(f"{estimate.requests:>15,} requests, if no question is dropped")
    print(f"{estimate.prompt_tokens:>15,} prompt tokens")
    print(f"{estimate.answer_tokens:>15,} answer tokens")
    print(f"{'$' + format(estimate.cost, ',.2f'):>15} by prices of {estimate.price.as_of}")
    if estimate.so_far is not None:
        print(f"{estimate.so_far.answers:>15,} answers are in the journal already")
        print(f"{'$' + format(estimate.so_far.cost, ',.2f'):>15} of it is spent")


SUBCOMMANDS = {
    "samples": Subcommand("corpus -> IN2 samples; the default", _samples_parser, _samples),
    "fetch": Subcommand("the hub's data sets, once for all shards", _fetch_parser, _fetch),
    "self-correction": Subcommand(
        "attempts of a model at samples, verified and corrected",
        self_correction_parser,
        lambda options: _stoppable(lambda: make_samples(options)),
    ),
    "erasure": Subcommand(
        "answers of a teacher by the best strategy of each kind of task, for Prompt Erasing",
        erasure_parser,
        lambda options: _stoppable(lambda: make_erased(options)),
    ),
}


if __name__ == "__main__":
    run_command(main)
