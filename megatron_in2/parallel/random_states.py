"""Restores random states: torch's, and those of Megatron-Core's tensor-parallel tracker."""

import contextlib
from collections.abc import Iterator

import torch
from megatron.core import tensor_parallel


@contextlib.contextmanager
def random_states_restored(device: torch.device) -> Iterator[None]:
    """Restore the random states of the CPU, of ``device`` and of the tracker after the block."""
    tracker = tensor_parallel.get_cuda_rng_tracker()
    states = tracker.get_states()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
    tracker.set_states(states)
