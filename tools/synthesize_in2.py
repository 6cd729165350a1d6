#!/usr/bin/env python3
"""Make IN2 samples from a corpus: segments, questions, long contexts composed around them."""

from megatron_in2.commands.parser import run_command
from megatron_in2.commands.synthesize_in2 import main

if __name__ == "__main__":
    run_command(main)
