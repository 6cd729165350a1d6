r"""Check a job before it starts: what slurm/film7b.sh runs first.

Examples:
    %(prog)s plan --config configs/film7b.yaml --world-size 128
    srun %(prog)s nodes --config configs/film7b.yaml --nodes node01,node02

"plan" checks configuration, data and checkpoints in one process, describes the run on stderr and
prints one line: steps done, steps in all, checkpoint.dir. "nodes" runs as every rank of the job:
each node sees the run's files, has the same code and packages and a sound GPU, and an all-reduce
over all ranks works; it prints the bandwidth. Exit codes: 0 sound, 2 bad input, 69 sick nodes,
75 the port is taken.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.commands.parser import (
    CommandParser,
    Subcommand,
    called_as,
    config_of,
    run_command,
    run_subcommand,
)
from megatron_in2.data.inspection.check import check_some_rows
from megatron_in2.errors import EXIT_UNFIT_NODES, InputError
from megatron_in2.files import atomic_file
from megatron_in2.parallel.devices import require_granted_gpus
from megatron_in2.parallel.rank import rank_from_environment
from megatron_in2.training.arithmetic.estimate import describe_run
from megatron_in2.training.checks.notes import notes_on_run
from megatron_in2.training.checks.preflight import RunInputs, check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.trace.report import trace_report
from megatron_in2.training.trace.stored import TraceStore, default_folder

MIN_TIMEOUT_SECONDS = 300.0  # of the check; many ranks load Python from one file server
CHECKPOINT_BYTES = 14  # of a parameter: bfloat16 weight, float32 master weight and two moments


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments)


def _plan_parser() -> CommandParser:
    parser = CommandParser("Check the run in one process.", TrainConfig)
    parser.add_argument("--world-size", type=int, required=True, help="ranks of the job")
    parser.add_argument(
        "--trace", action="store_true", help="also describe what train --dry-run --trace shows"
    )
    return parser


def _plan(options: Any) -> None:
    require_granted_gpus()  # an unfit node must not call the configuration wrong
    config = config_of(options, TrainConfig)
    inputs = check_run(config, options.world_size)
    _check_data(config, inputs)
    print(describe_run(config, options.world_size), file=sys.stderr)
    if options.trace:
        trace = TraceStore(default_folder()).trace
        print(trace_report(config, options.world_size, trace), file=sys.stderr)
    for note in notes_on_run(config, inputs):
        print(f"NOTE {note}", file=sys.stderr)
    done = inputs.resume_from[1].step if inputs.resume_from else 0
    print(done, inputs.total_steps, config.checkpoint.dir)


def _check_data(config: TrainConfig, inputs: RunInputs) -> None:
    """Read some rows of every dataset of the run: damage there shows before all nodes wait."""
    held_out = [prefix for prefix in (config.data.validation, config.data.probe) if prefix]
    for prefix in (*(part.prefix for part in inputs.datasets), *map(Path, held_out)):
        findings = check_some_rows(prefix, inputs.tokenizer)
        if findings.problems:
            raise InputError(
                f"{prefix} is damaged: {findings.problems[0]}: pack it again; in2 inspect "
                f"{prefix} --verify reads all of it"
            )


def _nodes_parser() -> CommandParser:
    parser = CommandParser("Check all nodes together.", TrainConfig)
    add = parser.add_argument
    add("--nodes", required=True, help="the job's nodes, with commas between")
    add("--world-size", type=int, help="ranks of the run, where some of the job's are spare")
    add("--sick-nodes", type=Path, help="write unfit nodes here, one a line")
    add("--megabytes", type=int, default=64, help="size of the all-reduce, MiB")
    add("--timeout", type=float, help="seconds for every rank to come; default 300 and 1 a rank")
    return parser


def _nodes(options: Any) -> int:
    from megatron_in2.cluster.check import check_cluster
    from megatron_in2.cluster.findings import CheckConfig, NodeFaultError

    config = config_of(options, TrainConfig)
    rank = rank_from_environment()
    if rank is None:
        raise InputError("nodes runs as the ranks of a job: start it by srun with MASTER_ADDR set")
    checks = CheckConfig(
        nodes=options.nodes.split(","),
        folder=Path(config.checkpoint.dir),
        free_bytes=2 * CHECKPOINT_BYTES * parameter_count(config.model),
        megabytes=options.megabytes,
        timeout_seconds=options.timeout or MIN_TIMEOUT_SECONDS + rank.world_size,
        job=os.environ.get("SLURM_JOB_ID", ""),
    )
    world_size = options.world_size or rank.world_size
    try:
        line = check_cluster(checks, rank, lambda: check_run(config, world_size))
    except NodeFaultError as error:
        print(f"{called_as()}: error: {error}", file=sys.stderr)
        if options.sick_nodes and error.nodes and rank.index == 0:
            with atomic_file(options.sick_nodes) as stream:
                stream.writelines(f"{name}\n" for name in error.nodes)
        return EXIT_UNFIT_NODES
    if line is not None:
        print(line)
    return 0


SUBCOMMANDS = {
    "plan": Subcommand("what is left to do", _plan_parser, _plan),
    "nodes": Subcommand("are all nodes sound and alike?", _nodes_parser, _nodes),
}


if __name__ == "__main__":
    run_command(main)
