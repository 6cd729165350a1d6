"""Run a study of the laboratory: what does a data design do to a small model?

Examples:
    %(prog)s placement
    %(prog)s placement --quick
    %(prog)s placement --seeds 5 --arms ends fixed --panels 1e4
    %(prog)s my_study.yaml --scale 0.05
    %(prog)s --list

A study is one YAML file. It trains small models on made-up data with the ordinary trainer, on two
processes, exports and probes them, and draws figures and table.md in runs/lab/STUDY/, with the
directions that were expected and what came of them. At most 10 minutes a seed on two cores.
Interrupted, it continues where it stopped.
"""

from collections.abc import Sequence

from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.errors import InputError
from megatron_in2.lab.config import LabConfig, select
from megatron_in2.lab.study import load_study, study_names


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("study", nargs="?", help="name of a study, or a YAML file of your own")
    parser.add_options(LabConfig)
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--list", action="store_true", help="list the studies and exit")
    options = parser.read(arguments)
    if options.list:
        for name in study_names():
            print(f"{name:<12}  {load_study(name).text.question}")
        return
    if options.study is None:
        raise InputError(f"name a study: {', '.join(study_names())}, or a YAML file of your own")
    study = load_study(options.study)
    seeds = 1 if options.quick else options.seeds
    selection = select(study, config_of(options, LabConfig, seeds=seeds))
    # Imported here, so that --help and bad input do not wait for torch.
    from megatron_in2.lab.run import run_study

    run_study(study, selection)


if __name__ == "__main__":
    run_command(main)
