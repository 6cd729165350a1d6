#!/usr/bin/env python3
"""Check a job before it starts: what slurm/film7b.sh runs first."""

from megatron_in2.commands.cluster_check import main
from megatron_in2.commands.parser import run_command

if __name__ == "__main__":
    run_command(main)
