#!/usr/bin/env python3
"""Run a study of the laboratory: what does a data design do to a small model?"""

from megatron_in2.commands.parser import run_command
from megatron_in2.lab.command import main

if __name__ == "__main__":
    run_command(main)
