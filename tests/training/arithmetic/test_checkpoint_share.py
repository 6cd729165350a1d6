"""The shares of all ranks are one checkpoint, in every layout."""

import pytest

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.checkpoint_share import checkpoint_share
from megatron_in2.training.arithmetic.memory import checkpoint_bytes
from megatron_in2.training.config import RuntimeConfig, TrainConfig

WORLD = 128


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    "parallel",
    [
        ParallelConfig(),
        ParallelConfig(tensor=4, sequence=True),
        ParallelConfig(tensor=2, context=2, sequence=True),
        ParallelConfig(context=8),
    ],
)
def test_all_ranks_together_write_one_checkpoint(parallel: ParallelConfig, dtype: str) -> None:
    config = TrainConfig(parallel=parallel, runtime=RuntimeConfig(dtype=dtype))
    share = checkpoint_share(config, WORLD)
    assert WORLD * share.written == pytest.approx(checkpoint_bytes(config))
    assert share.read == share.host == share.written


def test_a_lone_rank_receives_nothing_and_others_the_rest_of_their_weights() -> None:
    assert checkpoint_share(TrainConfig(), 1).received == 0
    share = checkpoint_share(TrainConfig(), 4)
    weights = checkpoint_bytes(TrainConfig()) / 14 * 2  # of 14 bytes a parameter
    assert share.received == pytest.approx(weights * 3 / 4)


def test_the_first_pipeline_stage_has_the_embedding_too() -> None:
    config = TrainConfig(parallel=ParallelConfig(pipeline=4))
    even = checkpoint_bytes(config) / WORLD
    assert even < checkpoint_share(config, WORLD).written < 1.1 * even
