"""``in2``: all commands under one name. ``python -m megatron_in2`` is the same."""

import importlib
import sys
from dataclasses import dataclass

from megatron_in2 import __version__
from megatron_in2.errors import InputError
from megatron_in2.processes import exit_on_stop_signals


@dataclass(frozen=True)
class Command:
    """A command: the module whose ``main`` it is, and one line of help."""

    module: str
    help: str


COMMANDS = {
    "synthesize": Command("commands.synthesize_in2", "corpus -> IN2 samples"),
    "preprocess": Command("commands.preprocess_in2", "samples -> packed rows; merge shards"),
    "inspect": Command("commands.inspect_dataset", "look into packed rows; check all of them"),
    "plan": Command("commands.plan", "which parallel layout, how much memory, how many days"),
    "cluster-check": Command("commands.cluster_check", "are a job's nodes sound and alike?"),
    "train": Command("commands.train", "packed rows -> a trained model"),
    "check-run": Command("commands.check_run", "is all that a run has saved sound?"),
    "convert": Command("commands.convert_checkpoint", "Hugging Face <-> Megatron-Core, exactly"),
    "probe": Command("commands.probe", "VaL probing: does the model use the middle?"),
    "evaluate": Command("commands.evaluate", "long- and short-context benchmarks"),
    "quickstart": Command("quickstart.command", "all of the above in small, on this machine"),
    "lab": Command("lab.command", "studies of what a data design does, in small"),
}


def main() -> None:
    """Run the command that the first argument names."""
    if sys.argv[1:2] == ["train"]:
        exit_on_stop_signals()  # the imports take most of a second
    from megatron_in2.commands.parser import run_command

    run_command(_dispatch)


def _dispatch() -> int | None:
    from megatron_in2.commands.parser import called_as

    program, arguments = called_as(), sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help(program))
        return 0
    if arguments[0] == "--version":
        print(f"megatron_in2 {__version__}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        raise InputError(f"{name!r} is no command: use {', '.join(COMMANDS)}")
    sys.argv = [f"{program} {name}", *arguments[1:]]  # what help and errors call the command
    # Imported here: a command starts without the others' libraries, and --help without torch.
    module = importlib.import_module(f"megatron_in2.{COMMANDS[name].module}")
    code: int | None = module.main()
    return code


def _help(program: str) -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND [OPTIONS]",
            "",
            "IN2 (information-intensive) training of long-context models on Megatron-Core.",
            "",
            "commands, in the order in which data flows:",
            *lines,
            "",
            f"{program} COMMAND --help describes a command and its options.",
        ]
    )


if __name__ == "__main__":
    main()
