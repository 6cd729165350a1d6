#!/usr/bin/env python3
"""Look into a packed dataset: its numbers, its rows as text, trained tokens marked."""

from megatron_in2.commands.inspect_dataset import main
from megatron_in2.commands.parser import run_command

if __name__ == "__main__":
    run_command(main)
