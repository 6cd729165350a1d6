r"""Convert checkpoints between Hugging Face and Megatron-Core, exactly.

Examples:
    python tools/convert_checkpoint.py hf-to-megatron --input Mistral-7B-Instruct-v0.2 \
        --output checkpoints/mistral --verify
    python tools/convert_checkpoint.py megatron-to-hf --input runs/film7b --output FILM-7B \
        --from latest --dtype bfloat16 --verify

--verify compares every tensor bit for bit, and the float32 logits of both models layer by layer.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.errors import InputError
from megatron_in2.parallel.imports import without_unused_imports

IMPORT, EXPORT = "hf-to-megatron", "megatron-to-hf"
OPTIONS_OF = {IMPORT: ("allow_pickle",), EXPORT: ("dtype", "from", "shard_gigabytes")}


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("direction", choices=(IMPORT, EXPORT))
    parser.add_argument("--input", type=Path, required=True, help="directory to convert")
    parser.add_argument("--output", type=Path, required=True, help="directory to write")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="of an import: read pytorch_model.bin too"
    )
    parser.add_argument(
        "--from", help="of an export: the step to take from a folder, its number or latest"
    )
    parser.add_argument("--dtype", help="of an export: float32, bfloat16, float16; default: as is")
    parser.add_argument("--shard-gigabytes", type=float, help="of an export: largest file; 5")
    parser.add_argument("--verify", action="store_true", help="prove the result afterwards")
    parser.add_argument("--report", type=Path, help="write the proof's figures here, JSON")
    options = parser.read()
    _require_fitting_options(options)
    with without_unused_imports():
        from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
        from megatron_in2.conversion.megatron_to_huggingface import SHARD_BYTES, export_checkpoint
        from megatron_in2.conversion.verify import verify_conversion
    from megatron_in2.files import write_json

    if options.direction == IMPORT:
        done = import_checkpoint(options.input, options.output, options.allow_pickle)
    else:
        done = export_checkpoint(
            options.input,
            options.output,
            options.dtype,
            options["from"] or "latest",
            int((options.shard_gigabytes or 0) * 1e9) or SHARD_BYTES,
        )
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(done.summary)
    print(
        f"{options.input} -> {options.output} is complete: {done.tensors} tensors, "
        f"{done.nbytes / 1e9:.3f} GB (step {done.step.name})"
    )
    if options.verify:
        result = verify_conversion(done.step, done.folder, options.allow_pickle)
        if options.report:
            write_json(options.report, asdict(result))
        print(
            f"verified: {result.tensors} tensors equal bit for bit; logits of {result.tokens} "
            f"tokens at positions up to {result.last_position:,}, themselves up to "
            f"{result.largest_logit:.3f}, differ by {result.largest_difference:.2e}"
        )


def _require_fitting_options(options: Any) -> None:
    for direction, names in OPTIONS_OF.items():
        for name in names:
            if direction != options.direction and options[name]:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag} belongs to {direction}: leave it out")
    if options.report and not options.verify:
        raise InputError("--report writes the figures of --verify: add --verify")


if __name__ == "__main__":
    run_command(main)
