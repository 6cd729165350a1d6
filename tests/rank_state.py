"""The state of one rank of a job that a test starts, built from a run's config file."""

from collections.abc import Iterator
from contextlib import contextmanager

from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.parallel.rank import Rank, rank_from_environment
from megatron_in2.parallel.world import open_world
from megatron_in2.training.build import build_training_state
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import TrainConfig
from megatron_in2.training.state import TrainingState


@contextmanager
def built_rank(file: str) -> Iterator[tuple[Rank, TrainingState]]:
    """Build what ``tools/train.py --config file`` trains on this rank, in an open world."""
    rank = rank_from_environment()
    assert rank is not None
    config = config_of(CommandParser(None, TrainConfig).read(["--config", file]), TrainConfig)
    inputs = check_run(config, rank.world_size)
    with open_world(config.parallel, rank, config.runtime.seed) as world:
        yield rank, build_training_state(config, inputs, world)
