#!/usr/bin/env python3
r"""Convert checkpoints between Hugging Face and Megatron-Core, exactly.

Examples:
    python tools/convert_checkpoint.py hf-to-megatron --input Mistral-7B-Instruct-v0.2 \
        --output checkpoints/mistral --verify
    python tools/convert_checkpoint.py megatron-to-hf --input runs/film7b --output FILM-7B --verify

--verify compares every tensor bit for bit and the float32 logits of both models.
"""

from dataclasses import asdict
from pathlib import Path

from megatron_in2.command import CommandParser, run_command

DIRECTIONS = ("hf-to-megatron", "megatron-to-hf")


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("direction", choices=DIRECTIONS)
    parser.add_argument("--input", type=Path, required=True, help="directory to convert")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument("--dtype", help="of an export: float32, bfloat16, float16; default: as is")
    parser.add_argument("--verify", action="store_true", help="prove the result afterwards")
    parser.add_argument("--report", type=Path, help="write the proof's figures here, JSON")
    options = parser.read()
    from megatron_in2.checkpoint.convert import export_checkpoint, import_checkpoint
    from megatron_in2.checkpoint.verify import verify_conversion
    from megatron_in2.files import write_json

    if options.direction == "hf-to-megatron":
        step, folder = import_checkpoint(options.input, options.output), options.input
    else:
        step = export_checkpoint(options.input, options.output, options.dtype)
        folder = options.output
    print(f"{options.input} -> {options.output} is complete (step {step.name})")
    if options.verify:
        result = verify_conversion(step, folder)
        if options.report:
            write_json(options.report, asdict(result))
        print(
            f"verified: {result.tensors} tensors equal bit for bit; logits of {result.tokens} "
            f"tokens up to {result.largest_logit:.3f} differ by {result.largest_difference:.2e}"
        )


if __name__ == "__main__":
    run_command(main)
