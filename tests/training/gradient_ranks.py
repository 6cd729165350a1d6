"""One rank of a job that takes one training step and saves its gradients as if they were weights.

Usage: gradient_ranks.py OUTPUT OPTION..., the options being those of tools/train.py. OUTPUT,
exported, has every gradient under Hugging Face's name, whole, as the layout's optimizer saw it.
"""

import sys
from pathlib import Path

from megatron.core import dist_checkpointing

from megatron_in2.checkpoint.folder import describe_checkpoint, mark_complete, read_config
from megatron_in2.checkpoint.source import source_of_step
from megatron_in2.checkpoint.store import model_weights
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.rank import rank_from_environment
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.train_step import train_step


def main() -> None:
    output, options = Path(sys.argv[1]), sys.argv[2:]
    config = config_of(CommandParser(None, TrainConfig).read(options), TrainConfig)
    rank = rank_from_environment()
    inputs = check_run(config, rank.world_size)
    with open_world(config.parallel, rank, config.runtime.seed) as world:
        state = build_training_state(config, inputs, world)
        model = state.model
        metrics = train_step(state)
        for parameter in model.module.parameters():
            parameter.data.copy_(parameter.main_grad)
        # A rank's gradients are complete only in the shard that it updates: gather the others.
        model.start_param_sync(force_sync=True)
        dist_checkpointing.save({"model": model_weights(model.module)}, str(output))
        if world.is_main:
            described = read_config(inputs.init_from)
            tokenizer = inputs.init_from / "tokenizer.model"
            source = source_of_step(inputs.init_from)
            describe_checkpoint(output, described, None, tokenizer, source=source)
            mark_complete(output, 0)
            print(f"loss {metrics.loss!r}")


if __name__ == "__main__":
    main()
