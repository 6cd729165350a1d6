r"""Pack IN2 samples into indexed datasets with answer-only loss masks.

Examples:
    python tools/preprocess_in2.py --input runs/samples.jsonl --output-prefix runs/in2 \
        --tokenizer-model mistral-v1 --seq-length 32768 --validation-fraction 0.02 --workers 8
    python tools/preprocess_in2.py ... --output-prefix runs/in2-03 --shard 2 --num-shards 16
    python tools/preprocess_in2.py merge --output-prefix runs/in2 --inputs runs/in2-*.json

Writes OUTPUT_PREFIX.bin/.idx, OUTPUT_PREFIX_loss_mask.bin/.idx, OUTPUT_PREFIX_samples.npy,
OUTPUT_PREFIX_rows.npy and the manifest OUTPUT_PREFIX.json; the validation split goes to
OUTPUT_PREFIX_valid. A run that was killed continues when the same command is given again.
"merge" joins the datasets of all shards, in the order of their numbers.
"""

import sys
from pathlib import Path

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.packed.manifest import Manifest
from megatron_in2.data.packing.config import ON_ERROR, OVERLONG, PreprocessConfig
from megatron_in2.data.packing.designs import DESIGNS, GENERIC_SYSTEM
from megatron_in2.data.packing.merge import merge_datasets
from megatron_in2.data.packing.preprocess import preprocess


def main() -> None:
    if sys.argv[1:2] == ["merge"]:
        _merge(sys.argv[2:])
    else:
        _preprocess()


def _preprocess() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, help="sample files")
    add("--output-prefix", type=Path, required=True, help="prefix P of the dataset's files")
    add("--tokenizer-model", required=True, help="a file, a Hugging Face directory, mistral-v1")
    add("--seq-length", type=int, required=True, help="row length in tokens")
    add("--template", default="film", help="film, chatml, or a YAML file of one's own")
    add("--design", choices=list(DESIGNS), default="answer", help="which parts are learnt")
    add("--generic-system", default=GENERIC_SYSTEM, help="what prompt-erasing writes instead")
    add("--pad-multiple", type=int, default=16, help="each sample is padded to a multiple of it")
    add("--window", type=int, default=8192, help="samples that packing chooses from at a time")
    add("--no-packing", action="store_true", help="one sample a row")
    add("--validation-fraction", type=float, default=0.0, help="share of samples kept apart")
    add("--overlong", choices=OVERLONG, default="error", help="samples longer than a row")
    add("--on-error", choices=ON_ERROR, default="stop", help="records that cannot be used")
    add("--verify-joins", type=float, default=0.001, help="share of recipes checked as text")
    add("--shard", type=int, default=0, help="which part of the input to take, from 0")
    add("--num-shards", type=int, default=1, help="parts that the input is divided in")
    add("--block", type=int, default=32_768, help="samples after which a killed run continues")
    add("--workers", type=int, default=1, help="processes that encode; the output is the same")
    add("--overwrite", action="store_true", help="replace a dataset that exists")
    for split, manifest in preprocess(PreprocessConfig(**parser.read().as_dict())).items():
        _report(split, manifest)


def _merge(arguments: list[str]) -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--output-prefix", type=Path, required=True, help="prefix P of the merged dataset")
    add("--inputs", type=Path, nargs="+", required=True, help="the shards' prefixes or manifests")
    add("--overwrite", action="store_true", help="replace a dataset that exists")
    _report("merged", merge_datasets(**parser.read(arguments).as_dict()))


def _report(name: str, manifest: Manifest) -> None:
    print(
        f"{name:>6}: {manifest.samples:,} samples, {manifest.tokens:,} tokens, "
        f"{manifest.rows:,} rows of {manifest.seq_length:,}, "
        f"{100 * manifest.packing_efficiency:.2f} % filled, "
        f"{100 * manifest.learnt_fraction:.2f} % learnt, dropped {manifest.dropped or 'none'}, "
        f"rejected {manifest.rejected or 'none'}"
    )
    for note, count in manifest.notes.items():
        print(f"        {count:,} {note}")


if __name__ == "__main__":
    run_command(main)
