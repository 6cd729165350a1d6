#!/usr/bin/env python3
"""Run the whole road on this machine: corpus, samples, packed rows, training, export, probing.

Example:
    python tools/quickstart.py

Results in runs/quickstart/; a second run reuses what stands there.
"""

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.quickstart import run_quickstart


def main() -> None:
    CommandParser(__doc__).read()
    run_quickstart()


if __name__ == "__main__":
    run_command(main)
