#!/usr/bin/env python3
"""Show in small that data placement decides whether a model can use the middle of its context."""

from megatron_in2.commands.parser import run_command
from megatron_in2.effect.command import main

if __name__ == "__main__":
    run_command(main)
