r"""Convert checkpoints between Hugging Face and Megatron-Core, exactly.

Examples:
    %(prog)s hf-to-megatron --input Mistral-7B-Instruct-v0.2 \
        --output checkpoints/mistral --verify
    %(prog)s megatron-to-hf --input runs/film7b --output FILM-7B \
        --from latest --dtype bfloat16 --verify

--verify compares every tensor bit for bit, and the float32 logits of both models layer by layer.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_in2.commands.parser import CommandParser, Subcommand, run_command, run_subcommand
from megatron_in2.errors import InputError

if TYPE_CHECKING:
    from megatron_in2.conversion.output import Conversion

BYTES_A_GIGABYTE = 10**9


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments)


def _parser(description: str) -> CommandParser:
    parser = CommandParser(description)
    add = parser.add_argument
    add("--input", type=Path, required=True, help="directory to convert")
    add("--output", type=Path, required=True, help="directory to write")
    add("--verify", action="store_true", help="prove the result afterwards")
    add("--report", type=Path, help="write the proof's figures here, JSON")
    return parser


def _import_parser() -> CommandParser:
    parser = _parser("Convert a Hugging Face directory to a Megatron-Core checkpoint.")
    parser.add_argument("--allow-pickle", action="store_true", help="read pytorch_model.bin too")
    return parser


def _import(options: Any) -> None:
    _require_verify(options)
    from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint

    done = import_checkpoint(options.input, options.output, options.allow_pickle)
    _report(done, options, options.allow_pickle)


def _export_parser() -> CommandParser:
    parser = _parser("Convert a Megatron-Core checkpoint to a Hugging Face directory.")
    add = parser.add_argument
    add("--from", default="latest", help="the step to take from a folder: its number or latest")
    add("--dtype", help="float32, bfloat16 or float16; default: as saved")
    add("--shard-gigabytes", type=float, default=5.0, help="largest file")
    return parser


def _export(options: Any) -> None:
    _require_verify(options)
    from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint

    shard_bytes = int(options.shard_gigabytes * BYTES_A_GIGABYTE)
    done = export_checkpoint(
        options.input, options.output, options.dtype, options["from"], shard_bytes
    )
    _report(done, options)


def _require_verify(options: Any) -> None:
    if options.report and not options.verify:
        raise InputError("--report writes the figures of --verify: add --verify")


def _report(done: "Conversion", options: Any, allow_pickle: bool = False) -> None:
    """Say what was converted, and prove it where that is asked for."""
    for warning in done.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(done.summary)
    print(
        f"{options.input} -> {options.output} is complete: {done.tensors} tensors, "
        f"{done.nbytes / BYTES_A_GIGABYTE:.3f} GB (step {done.step.name})"
    )
    if options.verify:
        _verify(done, options, allow_pickle)


def _verify(done: "Conversion", options: Any, allow_pickle: bool) -> None:
    from megatron_in2.conversion.verify import verify_conversion
    from megatron_in2.files import write_json

    result = verify_conversion(done.step, done.folder, allow_pickle)
    if options.report:
        write_json(options.report, asdict(result))
    print(
        f"verified: {result.tensors} tensors equal bit for bit; logits of {result.tokens} "
        f"tokens at positions up to {result.last_position:,}, themselves up to "
        f"{result.largest_logit:.3f}, differ by {result.largest_difference:.2e}"
    )


SUBCOMMANDS = {
    "hf-to-megatron": Subcommand("import from Hugging Face", _import_parser, _import),
    "megatron-to-hf": Subcommand("export to Hugging Face", _export_parser, _export),
}


if __name__ == "__main__":
    run_command(main)
