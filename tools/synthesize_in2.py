#!/usr/bin/env python3
r"""Make IN2 samples from a corpus: segments, questions, long contexts composed around them.

Example:
    python tools/synthesize_in2.py --config configs/quickstart/synthesis.yaml \
        --output runs/samples.jsonl

Writes the samples (JSON lines), the segment store OUTPUT.segments and OUTPUT.report.json / .png.
"""

from pathlib import Path

from megatron_in2.command import CommandParser, run_command
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.pipeline import synthesize


def main() -> None:
    parser = CommandParser(__doc__, SynthesisConfig)
    parser.add_argument("--output", type=Path, required=True, help="samples, JSON lines")
    parser.add_argument(
        "--materialize", action="store_true", help="write whole contexts as text, not recipes"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an output that exists")
    options = parser.read()
    config = SynthesisConfig(**{name: options[name] for name in SynthesisConfig.__annotations__})
    tally = synthesize(config, options.output, options.materialize, options.overwrite)
    for kind, count in tally.made.items():
        print(f"{kind:>14} {count:>9,} samples")
    for reason, count in sorted(tally.dropped.items()):
        print(f"{'dropped':>14} {count:>9,} {reason}")
    print(f"{options.output} is complete")


if __name__ == "__main__":
    run_command(main)
