"""One rank of a job that loads a step's weights in one layout and saves them again.

Usage: resave_ranks.py STEP OUTPUT TENSOR PIPELINE. Loading and saving are Megatron-Core's own.
"""

import sys
from pathlib import Path

import torch
from megatron.core import dist_checkpointing

from megatron_in2.checkpoint.folder import (
    describe_checkpoint,
    mark_complete,
    read_config,
    read_model_config,
    read_tokenizer,
)
from megatron_in2.checkpoint.source import source_of_step
from megatron_in2.model.build import build_model
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK, rank_from_environment
from megatron_in2.parallel.world import open_world


def main() -> None:
    step, output = Path(sys.argv[1]), Path(sys.argv[2])
    parallel = ParallelConfig(tensor=int(sys.argv[3]), pipeline=int(sys.argv[4]))
    with open_world(parallel, rank_from_environment() or SINGLE_RANK, seed=9) as world:
        model = build_model(read_model_config(step), parallel, world, torch.float32)
        loaded = dist_checkpointing.load({"model": weights(model)}, str(step))
        model.load_state_dict(loaded["model"])
        dist_checkpointing.save({"model": weights(model)}, str(output))
        if world.is_main:
            tokenizer = read_tokenizer(step)
            source = source_of_step(step)
            describe_checkpoint(output, read_config(step), None, tokenizer, source=source)
            mark_complete(output, 0, tokenizer)


def weights(model: torch.nn.Module) -> dict[str, object]:
    state = model.sharded_state_dict()  # type: ignore[operator]
    return {name: value for name, value in state.items() if not name.endswith("_extra_state")}


if __name__ == "__main__":
    main()
