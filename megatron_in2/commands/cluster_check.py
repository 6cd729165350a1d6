r"""Check a job before it starts: what slurm/film7b.sh runs first.

Examples:
    python tools/cluster_check.py plan --config configs/film7b.yaml --world-size 128
    srun python tools/cluster_check.py nodes --config configs/film7b.yaml --nodes node01,node02

"plan" checks configuration, data and checkpoints in one process, describes the run on stderr and
prints one line: steps done, steps in all, checkpoint.dir. "nodes" runs as every rank of the job:
each node sees the run's files, has the same code and packages and a sound GPU, and an all-reduce
over all ranks works; it prints the bandwidth. Exit codes: 0 sound, 2 bad input, 69 sick nodes.
"""

import sys
from pathlib import Path
from typing import Any

from megatron_in2.architectures.registry import parameter_count
from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file
from megatron_in2.parallel.rank import rank_from_environment
from megatron_in2.training.arithmetic.estimate import describe_run
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig

CHECKPOINT_BYTES = 14  # of a parameter: bfloat16 weight, float32 master weight and two moments


def main() -> int:
    parser = CommandParser(__doc__)
    commands = parser.add_subcommands(dest="command")
    plan = CommandParser("Check the run in one process.", TrainConfig)
    plan.add_argument("--world-size", type=int, required=True, help="ranks of the job")
    commands.add_subcommand("plan", plan, help="what is left to do")
    nodes = CommandParser("Check all nodes together.", TrainConfig)
    nodes.add_argument("--nodes", required=True, help="the job's nodes, with commas between")
    nodes.add_argument("--sick-nodes", type=Path, help="write unfit nodes here, one a line")
    nodes.add_argument("--megabytes", type=int, default=64, help="size of the all-reduce, MiB")
    nodes.add_argument("--timeout", type=float, default=120, help="seconds for every rank to come")
    commands.add_subcommand("nodes", nodes, help="are all nodes sound and alike?")
    options = parser.read()
    chosen = options[options.command]
    config = config_of(chosen, TrainConfig)
    return _plan(config, chosen) if options.command == "plan" else _nodes(config, chosen)


def _plan(config: TrainConfig, options: Any) -> int:
    inputs = check_run(config, options.world_size)
    print(describe_run(config, options.world_size), file=sys.stderr)
    done = inputs.resume_from[1].step if inputs.resume_from else 0
    print(done, inputs.total_steps, config.checkpoint.dir)
    return 0


def _nodes(config: TrainConfig, options: Any) -> int:
    from megatron_in2.cluster.check import check_cluster
    from megatron_in2.cluster.findings import EXIT_UNFIT_NODES, CheckConfig, NodeFaultError

    rank = rank_from_environment()
    if rank is None:
        raise InputError("nodes runs as the ranks of a job: start it by srun with MASTER_ADDR set")
    checks = CheckConfig(
        nodes=options.nodes.split(","),
        folder=Path(config.checkpoint.dir),
        free_bytes=2 * CHECKPOINT_BYTES * parameter_count(config.model),
        megabytes=options.megabytes,
        timeout_seconds=options.timeout,
    )
    try:
        line = check_cluster(checks, rank, lambda: check_run(config, rank.world_size))
    except NodeFaultError as error:
        print(f"cluster_check.py: error: {error}", file=sys.stderr)
        if options.sick_nodes and error.nodes and rank.index == 0:
            with atomic_file(options.sick_nodes) as stream:
                stream.writelines(f"{name}\n" for name in error.nodes)
        return EXIT_UNFIT_NODES
    if line is not None:
        print(line)
    return 0


if __name__ == "__main__":
    run_command(main)
