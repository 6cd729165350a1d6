#!/usr/bin/env python3
"""Show in small that data placement decides whether a model can use the middle of its context.

Examples:
    python tools/effect.py
    python tools/effect.py --quick
    python tools/effect.py --seeds 5 --arms ends mended --thetas 1e4

Trains a little model on made-up facts by the ordinary trainer, on two processes, in four arms at
two RoPE thetas; exports and probes each; draws runs/effect/figure.png and .svg and writes table.md.
About 10 minutes a seed on two cores. Interrupted, it goes on where it stopped.
"""

from dataclasses import fields
from pathlib import Path

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.effect.arms import ARMS, THETAS
from megatron_in2.effect.config import EffectConfig


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add(
        "--seeds",
        type=int,
        default=EffectConfig.seeds,
        help="each draws its own data, weights and probes",
    )
    add("--quick", action="store_true", help="one seed")
    add(
        "--contexts",
        type=int,
        default=EffectConfig.contexts,
        help="probe contexts a seed: probes a bin",
    )
    add(
        "--scale",
        type=float,
        default=EffectConfig.scale,
        help="share of the steps; below 1 to try the road",
    )
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS), help="curves wanted")
    add("--thetas", nargs="+", choices=list(THETAS), default=list(THETAS), help="of RoPE")
    add("--home", type=Path, default=EffectConfig.home, help="folder for everything")
    options = parser.read()
    values = {field.name: options[field.name] for field in fields(EffectConfig)}
    values["seeds"] = 1 if options.quick else options.seeds
    config = EffectConfig(**values)
    # Imported here so that --help and bad input do without torch's seconds.
    from megatron_in2.effect.experiment import run_effect

    run_effect(config)


if __name__ == "__main__":
    run_command(main)
