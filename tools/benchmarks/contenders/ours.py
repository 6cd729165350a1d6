"""This package's trainer, a contender of ``training.py``: its own loop and data path."""

import json
import sys
from pathlib import Path
from typing import cast

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import (
    CheckpointConfig,
    DataConfig,
    Logits,
    OptimizerConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)
from megatron_in2.training.step.train_step import train_step
from tools.benchmarks.contenders.turns import take_turns


def main() -> None:
    folder, logits = Path(sys.argv[1]), cast(Logits, sys.argv[2])
    sizes = json.loads((folder / "sizes.json").read_text())
    optimizer = json.loads((folder / "optimizer.json").read_text())
    rate, betas = optimizer["lr"], optimizer["betas"]
    config = TrainConfig(
        model=ModelConfig(**sizes["model"]),
        data=DataConfig(train=str(folder / "rows"), seq_length=sizes["seq_length"]),
        optimizer=OptimizerConfig(
            lr=rate,
            min_lr=rate,
            beta1=betas[0],
            beta2=betas[1],
            eps=optimizer["eps"],
            weight_decay=optimizer["weight_decay"],
            clip_grad=optimizer["clip_grad"],
        ),
        schedule=ScheduleConfig(
            global_batch_rows=sizes["rows"], steps=sizes["steps"], warmup_fraction=0.0
        ),
        checkpoint=CheckpointConfig(
            dir=str(folder / f"run_{logits}"), init_from=str(folder / "megatron")
        ),
        runtime=RuntimeConfig(dtype="float32", logits=logits, seed=sizes["seed"]),
    )
    inputs = check_run(config, world_size=1)
    with open_world(config.parallel, SINGLE_RANK, config.runtime.seed) as world:
        state = build_training_state(config, inputs, world)
        take_turns(lambda number: train_step(state).loss)


if __name__ == "__main__":
    main()
