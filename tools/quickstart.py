#!/usr/bin/env python3
"""Run everything on this machine: corpus, samples, rows, training, export, probing."""

from megatron_in2.commands.parser import run_command
from megatron_in2.quickstart.command import main

if __name__ == "__main__":
    run_command(main)
