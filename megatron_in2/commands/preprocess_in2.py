r"""Pack IN2 samples into indexed datasets with answer-only loss masks.

Examples:
    %(prog)s --input runs/samples.jsonl --output-prefix runs/in2 \
        --tokenizer-model mistral-v1 --seq-length 32768 --validation-fraction 0.02 --workers 8
    %(prog)s ... --output-prefix runs/in2-03 --shard 2 --num-shards 16
    %(prog)s merge --output-prefix runs/in2 --inputs runs/in2-*.json
    %(prog)s export --trainer trl --input-prefix runs/in2 --output runs/in2.parquet

Writes OUTPUT_PREFIX.bin/.idx, OUTPUT_PREFIX_loss_mask.bin/.idx, OUTPUT_PREFIX_samples.npy,
OUTPUT_PREFIX_rows.npy and the manifest OUTPUT_PREFIX.json; the validation split goes to
OUTPUT_PREFIX_valid. A run that was killed continues when the same command is given again.
"merge" joins the datasets of all shards and packs their samples anew (merge --help); "export"
writes a dataset for other trainers (export --help). What is described here is "pack", which runs
where no subcommand is named.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from megatron_in2.commands.parser import (
    CommandParser,
    Subcommand,
    config_of,
    run_command,
    run_subcommand,
    shown_choices,
)
from megatron_in2.data.packed.export import Trainer, export_dataset
from megatron_in2.data.packed.manifest import Manifest
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.merge import merge_datasets
from megatron_in2.data.packing.preprocess import preprocess


def main(arguments: Sequence[str] | None = None) -> int | None:
    return run_subcommand(__doc__, SUBCOMMANDS, arguments, default="pack")


def _pack_parser() -> CommandParser:
    parser = CommandParser(__doc__)
    parser.add_options(PreprocessConfig)
    return parser


def _pack(options: Any) -> None:
    for split, manifest in preprocess(config_of(options, PreprocessConfig)).items():
        _report(split, manifest)


def _merge_parser() -> CommandParser:
    parser = CommandParser("Join datasets, those of all shards of a run; rows are packed anew.")
    add = parser.add_argument
    add("--output-prefix", type=Path, required=True, help="prefix P of the merged dataset")
    add("--inputs", type=Path, nargs="+", required=True, help="the shards' prefixes or manifests")
    add("--seed", type=int, default=0, help="of the order in which samples are packed")
    add("--overwrite", action="store_true", help="replace a dataset that exists")
    return parser


def _merge(options: Any) -> None:
    _report("merged", merge_datasets(**options.as_dict()))


def _export_parser() -> CommandParser:
    parser = CommandParser("Write a packed dataset for another trainer: Megatron-Bridge or TRL.")
    add = parser.add_argument
    trainers = shown_choices(get_args(Trainer))
    add("--trainer", type=str, required=True, metavar=trainers, help="the other trainer")
    add("--input-prefix", type=Path, required=True, help="prefix P of the dataset's files")
    add("--output", type=Path, required=True, help="the file: .npy, or .parquet for trl")
    add("--overwrite", action="store_true", help="replace a file that exists")
    return parser


def _export(options: Any) -> None:
    found = export_dataset(options.input_prefix, options.output, options.trainer, options.overwrite)
    print(f"{options.output}: " + ", ".join(f"{count:,} {name}" for name, count in found.items()))


def _report(name: str, manifest: Manifest) -> None:
    print(
        f"{name:>6}: {manifest.samples:,} samples, {manifest.tokens:,} tokens, "
        f"{manifest.rows:,} rows of {manifest.seq_length:,}, "
        f"{100 * manifest.packing_efficiency:.2f} % filled, "
        f"{100 * manifest.learnt_fraction:.2f} % trained on, dropped {manifest.dropped or 'none'}, "
        f"rejected {manifest.rejected or 'none'}"
    )
    for note, count in manifest.notes.items():
        print(f"        {count:,} {note}")


SUBCOMMANDS = {
    "pack": Subcommand("samples -> packed rows; the default", _pack_parser, _pack),
    "merge": Subcommand("join the datasets of all shards", _merge_parser, _merge),
    "export": Subcommand("packed rows -> files of other trainers", _export_parser, _export),
}


if __name__ == "__main__":
    run_command(main)
