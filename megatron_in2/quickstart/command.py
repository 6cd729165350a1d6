"""Run all stages on this machine: corpus, samples, packed rows, training, export, probing.

Example:
    %(prog)s

Writes to runs/quickstart/ in the current directory; a second run reuses finished steps.
"""

from collections.abc import Sequence

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.quickstart.run import run_quickstart


def main(arguments: Sequence[str] | None = None) -> None:
    CommandParser(__doc__).read(arguments)
    run_quickstart()


if __name__ == "__main__":
    run_command(main)
