"""Run all stages on this machine: corpus to probes, and the smallest study.

Examples:
    %(prog)s
    %(prog)s --base llama3

Writes to runs/quickstart/ in the current directory (runs/quickstart-llama3/ for another base); a
second run reuses finished steps.
"""

from collections.abc import Sequence

from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.quickstart.config import QuickstartConfig
from megatron_in2.quickstart.run import run_quickstart


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_options(QuickstartConfig)
    run_quickstart(config_of(parser.read(arguments), QuickstartConfig))


if __name__ == "__main__":
    run_command(main)
