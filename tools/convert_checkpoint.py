#!/usr/bin/env python3
"""Convert checkpoints between Hugging Face and Megatron-Core, exactly."""

from megatron_in2.commands.convert_checkpoint import main
from megatron_in2.commands.parser import run_command

if __name__ == "__main__":
    run_command(main)
