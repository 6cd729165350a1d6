#!/usr/bin/env python3
"""Long- and short-context benchmarks: what did the training gain, and was anything else broken?"""

from megatron_in2.commands.evaluate import main
from megatron_in2.commands.parser import run_command

if __name__ == "__main__":
    run_command(main)
