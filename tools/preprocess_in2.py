#!/usr/bin/env python3
"""Pack IN2 samples into indexed datasets with answer-only loss masks."""

from megatron_in2.commands.parser import run_command
from megatron_in2.commands.preprocess_in2 import main

if __name__ == "__main__":
    run_command(main)
