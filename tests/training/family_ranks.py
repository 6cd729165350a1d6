"""One rank of a job that trains every family in one layout; the process group starts once.

Usage: family_ranks.py OUTPUT STEPS CONFIG... Each CONFIG, a file of tools/train.py, names the
imported model of a family as checkpoint.init_from. OUTPUT/NAME, named like the config file, gets

fresh        "ok" where freshly drawn biases are zero and norms one on every rank
gradients/   the first step's gradients, saved as if they were weights
weights/     the weights after STEPS steps
steps.json   loss and gradient norm of each step, and the loss that the gradients belong to
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import dist_checkpointing

from megatron_in2.checkpoint.store import model_weights
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.model.build import build_model
from megatron_in2.model.initialisation import initialise_weights
from megatron_in2.parallel.rank import rank_from_environment
from megatron_in2.parallel.world import World, open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import RunInputs, check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.step.train_step import train_step


def main() -> None:
    output, steps, files = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    rank = rank_from_environment()
    configs = [
        config_of(CommandParser(None, TrainConfig).read(["--config", file]), TrainConfig)
        for file in files
    ]
    with open_world(configs[0].parallel, rank, configs[0].runtime.seed) as world:
        for file, config in zip(files, configs, strict=True):
            folder = output / Path(file).stem
            inputs = check_run(config, rank.world_size)
            dist.barrier()
            if world.is_main:
                for name in ("gradients", "weights"):
                    (folder / name).mkdir(parents=True)
            dist.barrier()
            _check_fresh_weights(config, world)
            first = _save_gradients(config, inputs, world, folder / "gradients")
            lines = _train(config, inputs, world, steps, folder / "weights")
            if world.is_main:
                (folder / "fresh").write_text("ok")
                (folder / "steps.json").write_text(json.dumps({"first": first, "steps": lines}))


def _check_fresh_weights(config: TrainConfig, world: World) -> None:
    model = build_model(config.model, config.parallel, world, torch.float32)
    for parameter in model.parameters():
        parameter.data.fill_(7.0)
    initialise_weights(model, config.model, config.runtime.seed, config.runtime.init_std)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (0.0 if name.endswith("bias") else 1.0)).all(), name
        else:
            assert 0.0 < parameter.abs().max() < 1.0, name


def _save_gradients(config: TrainConfig, inputs: RunInputs, world: World, folder: Path) -> float:
    optimizer = replace(config.optimizer, clip_grad=0.0)  # clipping would scale what is compared
    state = build_training_state(replace(config, optimizer=optimizer), inputs, world)
    loss = train_step(state).loss
    module = state.model.module
    for parameter in module.parameters():
        parameter.data.copy_(parameter.main_grad)
    # Gradients are whole in the shard that a rank updates; the others' come from their owners.
    state.model.start_param_sync(force_sync=True)
    dist_checkpointing.save({"model": model_weights(module)}, str(folder))
    return loss


def _train(
    config: TrainConfig, inputs: RunInputs, world: World, steps: int, folder: Path
) -> list[tuple[float, float]]:
    state = build_training_state(config, inputs, world)
    lines = []
    for _ in range(steps):
        metrics = train_step(state)
        lines.append((metrics.loss, metrics.grad_norm))
    state.model.start_param_sync(force_sync=True)
    dist_checkpointing.save({"model": model_weights(state.model.module)}, str(folder))
    return lines


if __name__ == "__main__":
    main()
