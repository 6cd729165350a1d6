"""Show in small that data placement decides whether a model can use the middle of its context.

Examples:
    %(prog)s
    %(prog)s --quick
    %(prog)s --seeds 5 --arms ends fixed --thetas 1e4

Trains a small model on made-up facts with the ordinary trainer, on two processes, in four arms at
two RoPE thetas; exports and probes each; draws runs/effect/figure.png and .svg and writes table.md.
About 10 minutes a seed on two cores. Interrupted, it continues where it stopped.
"""

from collections.abc import Sequence

from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.effect.config import EffectConfig


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__)
    parser.add_options(EffectConfig)
    parser.add_argument("--quick", action="store_true", help="one seed")
    options = parser.read(arguments)
    seeds = 1 if options.quick else options.seeds
    config = config_of(options, EffectConfig, seeds=seeds)
    # Imported here, so that --help and bad input do not wait for torch.
    from megatron_in2.effect.experiment import run_effect

    run_effect(config)


if __name__ == "__main__":
    run_command(main)
