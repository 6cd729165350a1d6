#!/usr/bin/env python3
"""VaL probing: does a model find what is in the middle of its context?"""

from megatron_in2.commands.parser import run_command
from megatron_in2.commands.probe import main

if __name__ == "__main__":
    run_command(main)
