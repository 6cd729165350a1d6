#!/usr/bin/env python3
"""Train on packed IN2 data with Megatron-Core."""

from megatron_in2.commands.parser import run_command
from megatron_in2.commands.train import main

if __name__ == "__main__":
    run_command(main)
