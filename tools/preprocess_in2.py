#!/usr/bin/env python3
r"""Pack IN2 samples into indexed datasets with answer-only loss masks.

Example:
    python tools/preprocess_in2.py --input runs/samples.jsonl --output-prefix runs/in2 \
        --tokenizer-model mistral-v1 --seq-length 32768 --validation-fraction 0.02 --workers 8

Writes OUTPUT_PREFIX.bin/.idx, OUTPUT_PREFIX_loss_mask.bin/.idx, OUTPUT_PREFIX_samples.npy,
OUTPUT_PREFIX_rows.npy and the manifest OUTPUT_PREFIX.json; the validation split goes to
OUTPUT_PREFIX_valid.
"""

from pathlib import Path

from megatron_in2.command import CommandParser, run_command
from megatron_in2.data.preprocess import OVERLONG, PreprocessConfig, preprocess


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, help="sample files")
    add("--output-prefix", type=Path, required=True, help="prefix P of the dataset's files")
    add("--tokenizer-model", required=True, help="a file, a Hugging Face directory, mistral-v1")
    add("--seq-length", type=int, required=True, help="row length in tokens")
    add("--pad-multiple", type=int, default=16, help="each sample is padded to a multiple of it")
    add("--window", type=int, default=4096, help="samples that packing chooses from at a time")
    add("--validation-fraction", type=float, default=0.0, help="share of samples kept apart")
    add("--overlong", choices=OVERLONG, default="error", help="samples longer than a row")
    add("--workers", type=int, default=1, help="processes that encode; the output is the same")
    add("--overwrite", action="store_true", help="replace a dataset that exists")
    config = PreprocessConfig(**parser.read().as_dict())
    for split, manifest in preprocess(config).items():
        print(
            f"{split:>6}: {manifest.samples:,} samples, {manifest.tokens:,} tokens, "
            f"{manifest.rows:,} rows of {manifest.seq_length:,}, "
            f"{100 * manifest.packing_efficiency:.2f} % filled, "
            f"{100 * manifest.learnt_fraction:.2f} % learnt, dropped {manifest.dropped or 'none'}"
        )


if __name__ == "__main__":
    run_command(main)
