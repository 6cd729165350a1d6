r"""Rank parallel layouts for so many GPUs of a type: memory, step time, days.

Example:
    %(prog)s --config configs/film7b.yaml --gpus 128 --gpu-type a100-80g

Formulas only, no GPU needed; gpus.yaml has the types of GPU and the sources of their figures.
"""

from collections.abc import Sequence

from megatron_in2.commands.parser import CommandParser, config_of, run_command
from megatron_in2.errors import InputError
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, read_gpu
from megatron_in2.training.arithmetic.plan import as_table, rank_layouts
from megatron_in2.training.config import TrainConfig

PAPER_ROWS = 820_000  # packed rows of the paper's 1.75 M samples: 12.8 K steps of 64


def main(arguments: Sequence[str] | None = None) -> None:
    parser = CommandParser(__doc__, TrainConfig)
    parser.add_argument("--gpus", type=int, required=True, help="GPUs of the run")
    parser.add_argument("--gpu-type", required=True, help="a type of gpus.yaml")
    parser.add_argument("--rows", type=int, default=PAPER_ROWS, help="training rows")
    parser.add_argument("--top", type=int, default=8, help="layouts to show")
    options = parser.read(arguments)
    config = config_of(options, TrainConfig)
    layouts = rank_layouts(config, options.gpus, read_gpu(GPU_TYPES, options.gpu_type))
    if not layouts:
        raise InputError(
            f"no layout of {options.gpus} GPUs fits schedule.global_batch_rows="
            f"{config.schedule.global_batch_rows} and the model's sizes: change one of them"
        )
    steps = config.schedule.total_steps(options.rows)
    print(f"{options.gpus} x {options.gpu_type}, {steps:,} steps; best of {len(layouts)} layouts\n")
    print(as_table(layouts[: options.top], steps))


if __name__ == "__main__":
    run_command(main)
