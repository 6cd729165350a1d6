"""Failed allocations are distinguished from other errors; remedies fit the configuration."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import Rank
from megatron_in2.training.checks.rank_errors import failures_in_one_line, memory_remedies
from megatron_in2.training.config import RuntimeConfig, TrainConfig

RANK = Rank(index=3, world_size=8, local_index=1, local_world_size=2)
TOO_MUCH = 2**50  # bytes


def test_what_torch_or_numpy_cannot_allocate_is_out_of_memory() -> None:
    for allocate in (
        lambda: torch.empty(TOO_MUCH, dtype=torch.uint8),
        lambda: np.ones(TOO_MUCH, np.uint8),
    ):
        with (
            pytest.raises(InputError, match=r"rank 3 on .* is out of memory .*allocate"),
            failures_in_one_line(TrainConfig(), RANK),
        ):
            allocate()


def test_the_allocator_of_a_gpu_too() -> None:
    with (
        pytest.raises(InputError, match=r"out of memory \(CUDA out of memory. Tried"),
        failures_in_one_line(TrainConfig(), RANK),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_other_errors_keep_their_tracebacks() -> None:
    with (
        pytest.raises(RuntimeError, match="size of tensor"),
        failures_in_one_line(TrainConfig(), RANK),
    ):
        torch.ones(2) + torch.ones(3)


def test_a_lost_peer_is_one_line() -> None:
    with (
        pytest.raises(SystemExit, match=r"rank 3 on .* lost the connection to another rank"),
        failures_in_one_line(TrainConfig(), RANK),
    ):
        raise RuntimeError("[../third_party/gloo/pair.cc:534] Connection closed by peer [::1]:1")


def test_remedies_leave_out_what_is_already_set() -> None:
    config = TrainConfig(
        parallel=ParallelConfig(tensor=2, context=4),
        runtime=RuntimeConfig(dtype="float32", logits="all"),
    )
    assert memory_remedies(config) == [
        "set parallel.sequence=true",
        "set runtime.logits=answers",
        "set runtime.recompute=full",
        "raise parallel.context (now 4), tensor (now 2) or pipeline (now 1)",
        "set runtime.dtype=bfloat16",
    ]
    taken = replace(config, runtime=RuntimeConfig(recompute="full"))
    taken = replace(taken, parallel=ParallelConfig(tensor=2, sequence=True))
    assert memory_remedies(taken) == [
        "raise parallel.context (now 1), tensor (now 2) or pipeline (now 1)"
    ]
