"""One rank's whole run: join the world, build, train, leave."""

from dataclasses import asdict
from pathlib import Path

from megatron_in2.checkpoint.store import CheckpointSaver
from megatron_in2.data.dataset import PackedDataset
from megatron_in2.errors import EXIT_REQUEUE
from megatron_in2.model.backend import choose_backend
from megatron_in2.parallel.rank import Rank
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.callbacks import (
    BaseCallback,
    Checkpointing,
    MetricsLog,
    StepReport,
    StopOnSignal,
    Validation,
)
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.guard import Guard
from megatron_in2.training.preflight import Launch
from megatron_in2.training.rows import TrainingRows
from megatron_in2.training.trainer import Trainer


def run_training(config: TrainConfig, launch: Launch, rank: Rank) -> int:
    """Train as one rank of the world.

    Returns:
        The process's exit code: 0, or 75 where a signal ended the run early and it is saved.
    """
    with open_world(config.parallel, rank, config.runtime.seed) as world:
        state = launch.resume_from[1] if launch.resume_from else None
        step = state.step if state else 0
        log = None
        if world.is_main:
            log = MetricsLog(Path(config.checkpoint.dir), step, config.logging.tensorboard)
            print(_first_line(config, launch, world.size), flush=True)
        stop = StopOnSignal()
        callbacks: list[BaseCallback] = [stop, Guard(config.runtime.stop_after_skipped)]
        if log is not None:
            callbacks.append(StepReport(log, config.logging.interval_steps))
        for name, prefix in (
            ("validation_loss", config.data.validation),
            ("probe_loss", config.data.probe),
        ):
            if prefix:
                dataset = PackedDataset(Path(prefix))
                callbacks.append(Validation(name, dataset, log, config.logging))
        saver = CheckpointSaver(
            Path(config.checkpoint.dir),
            asdict(config),
            launch.tokenizer.path,
            config.checkpoint.keep_last,
            config.checkpoint.keep_every_steps,
            config.checkpoint.asynchronous,
        )
        callbacks.append(Checkpointing(saver, launch.tokenizer))
        model, optimizer = build_training_state(config, launch, world)
        trainer = Trainer(
            config=config,
            world=world,
            model=model,
            optimizer=optimizer,
            rows=TrainingRows(config.data.train, config.runtime.seed),
            callbacks=callbacks,
            step=step,
            consumed_rows=state.consumed_rows if state else 0,
            total_steps=launch.total_steps,
        )
        trainer.fit()
        if log is not None:
            log.close()
        return EXIT_REQUEUE if stop.is_requested else 0


def _first_line(config: TrainConfig, launch: Launch, world_size: int) -> str:
    parallel = config.parallel
    layout = f"TP{parallel.tensor} PP{parallel.pipeline} CP{parallel.context}"
    layout += f" DP{parallel.data_ranks(world_size)}" + (" SP" if parallel.sequence else "")
    if launch.resume_from:
        start = f"resuming from {launch.resume_from[0]}"
    else:
        start = f"starting from {launch.init_from or 'fresh weights'}"
    return (
        f"{config.model.parameter_count:,} parameters | {layout} | {config.runtime.dtype} | "
        f"backend {choose_backend(config.model.backend)} | "
        f"{launch.rows:,} rows of {config.data.seq_length:,} | {launch.total_steps:,} steps "
        f"of {config.schedule.global_batch_rows} rows | {start}"
    )
