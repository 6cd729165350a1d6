#!/usr/bin/env python3
"""Check all that a run has saved: every file of every checkpoint, and its metrics."""

from megatron_in2.commands.check_run import main
from megatron_in2.commands.parser import run_command

if __name__ == "__main__":
    run_command(main)
