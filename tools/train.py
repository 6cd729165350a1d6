#!/usr/bin/env python3
"""Train on packed IN2 data with Megatron-Core."""

from megatron_in2.processes import exit_on_stop_signals

if __name__ == "__main__":
    exit_on_stop_signals()  # the imports take most of a second
    from megatron_in2.commands.parser import run_command
    from megatron_in2.commands.train import main

    run_command(main)
