"""Train on packed IN2 data with Megatron-Core.

Examples:
    %(prog)s --config configs/tiny.yaml --nproc 2
    %(prog)s --config configs/film7b.yaml --dry-run --world-size 128
    %(prog)s --config configs/film7b.yaml --dry-run --world-size 128 --trace
    torchrun --nproc-per-node 8 -m megatron_in2.commands.train --config configs/film7b_8gpu.yaml

Checks everything first, then starts --nproc local ranks; where torchrun's or srun's variables
are set, this process is itself a rank. A run resumes from the newest complete checkpoint in
checkpoint.dir. SIGTERM, SIGUSR1, SIGHUP or Ctrl-C ends it after the present step, saved; whatever
ends it, no process of it is left. Exit codes: 0 done, 2 bad input, 69 a rank hangs, 75 stopped by
a signal and saved (130 after Ctrl-C).
"""

from megatron_in2.processes import die_with_launcher, exit_on_stop_signals

if __name__ == "__main__":
    exit_on_stop_signals()  # the imports below take most of a second

import sys
from collections.abc import Sequence

from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.commands.start import command_line
from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.run_probes import read_probe_set
from megatron_in2.parallel.imports import without_unused_imports
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.parallel.rank import rank_from_environment
from megatron_in2.training.arithmetic.estimate import describe_run
from megatron_in2.training.checks.preflight import check_run, check_run_of_rank
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.trace.report import trace_report
from megatron_in2.training.trace.stored import TraceStore, default_folder


def main(arguments: Sequence[str] | None = None) -> int:
    die_with_launcher()
    parser = CommandParser(__doc__, TrainConfig)
    parser.add_argument("--nproc", type=int, default=1, help="local ranks to start")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and exit")
    parser.add_argument("--world-size", type=int, help="ranks that --dry-run plans for")
    parser.add_argument(
        "--trace",
        action="store_true",
        help="with --dry-run: run one rank of each pipeline stage without memory, and print what "
        "it holds, computes and sends",
    )
    parser.add_argument("--trace-samples", type=int, default=1, help="samples of a traced row")
    options = parser.read(arguments)
    config = config_of(options, TrainConfig)
    if options.trace and not options.dry_run:
        raise InputError("--trace needs --dry-run")
    if options.dry_run:
        world_size = options.world_size or options.nproc
        print(describe_run(config, world_size), flush=True)
        if options.trace:
            trace = TraceStore(default_folder()).trace
            print(trace_report(config, world_size, trace, options.trace_samples))
        return 0
    rank = rank_from_environment()
    inputs = check_run_of_rank(config, rank) if rank else check_run(config, options.nproc)
    probes = read_probe_set(config, inputs)
    if rank is None:
        return run_local_ranks(_rank_command(arguments), options.nproc)
    # Imported here so that checking and starting ranks do without torch's seconds.
    with without_unused_imports():
        from megatron_in2.training.run import run_training

    return run_training(config, inputs, rank, probes)


def _rank_command(arguments: Sequence[str] | None) -> list[str]:
    """Return what starts one rank: what started this process, so that errors name that too."""
    if arguments is None:
        return [sys.executable, *sys.orig_argv[1:]]
    return command_line("train", *arguments)


if __name__ == "__main__":
    run_command(main)
