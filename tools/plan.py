#!/usr/bin/env python3
"""Rank parallel layouts for so many GPUs of a type: memory, step time, days."""

from megatron_in2.commands.parser import run_command
from megatron_in2.commands.plan import main

if __name__ == "__main__":
    run_command(main)
