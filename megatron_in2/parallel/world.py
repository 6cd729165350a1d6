"""Joining the job: this rank's device, process groups and seeds."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.cpu import cuda_named_as_cpu
from megatron_in2.parallel.devices import let_segments_grow, own_gpu, require_granted_gpus
from megatron_in2.parallel.flight_recorder import record_collectives
from megatron_in2.parallel.rank import Rank


@dataclass(frozen=True)
class World:
    """One rank's place in the parallel layout.

    Args:
        rank: global rank.
        size: world size.
        device: where this rank computes.
        tensor_size: TP.
        data_rank: index among the data-parallel ranks.
        data_size: DP.
        context_rank: index among the context-parallel ranks.
        context_size: CP.
        is_first_stage: whether this rank holds the first pipeline stage.
        is_last_stage: whether it holds the last one.
        data_and_context_group: DP x CP ranks, over which gradients are reduced.
        pipeline_group: the ranks of this rank's pipeline.
        pipeline_last_rank: global rank of the pipeline's last stage.
    """

    rank: int
    size: int
    device: torch.device
    tensor_size: int
    data_rank: int
    data_size: int
    context_rank: int
    context_size: int
    is_first_stage: bool
    is_last_stage: bool
    data_and_context_group: dist.ProcessGroup
    pipeline_group: dist.ProcessGroup
    pipeline_last_rank: int

    @property
    def is_main(self) -> bool:
        """True on the one rank that prints and writes files for all."""
        return self.rank == 0


@contextlib.contextmanager
def open_world(
    parallel: ParallelConfig, rank: Rank, seed: int, timeout_minutes: float = 30.0
) -> Iterator[World]:
    """Join the job: process groups, Megatron-Core's model-parallel state, device and seeds.

    Uses NCCL where CUDA is available, and gloo with the CPU adapter elsewhere. Everything is shut
    down when the block ends.

    Args:
        parallel: the layout.
        rank: this process.
        seed: of Megatron-Core's generators and torch's.
        timeout_minutes: after which a collective operation fails.

    Raises:
        InputError: the layout does not fit the world size, or this node has more ranks than GPUs.
        UnfitNodeError: the node lacks a GPU that the job has been granted.
    """
    parallel.validate(rank.world_size)
    require_granted_gpus()
    record_collectives()
    # Sequence and context parallelism overlap communication only with a single work queue.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    with contextlib.ExitStack() as stack:
        if torch.cuda.is_available():
            device = torch.device("cuda", own_gpu(rank))
            torch.cuda.set_device(device)
            let_segments_grow()
            backend = "cpu:gloo,cuda:nccl"
        else:
            device = torch.device("cpu")
            backend = "gloo"
            if "OMP_NUM_THREADS" not in os.environ:  # torch heeds it by itself
                cores = len(os.sched_getaffinity(0))
                torch.set_num_threads(max(1, cores // rank.local_world_size))
            stack.enter_context(cuda_named_as_cpu())
        dist.init_process_group(
            backend,
            rank=rank.index,
            world_size=rank.world_size,
            store=HashStore() if rank.world_size == 1 else None,
            timeout=timedelta(minutes=timeout_minutes),
        )
        stack.callback(dist.destroy_process_group)
        yield stack.enter_context(model_parallel_state(parallel, rank, seed, device))


@contextlib.contextmanager
def model_parallel_state(
    parallel: ParallelConfig, rank: Rank, seed: int, device: torch.device
) -> Iterator[World]:
    """Set up Megatron-Core's model-parallel state in the process group that exists."""
    from megatron.core import parallel_state, tensor_parallel

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tensor,
        pipeline_model_parallel_size=parallel.pipeline,
        context_parallel_size=parallel.context,
    )
    try:
        torch.manual_seed(seed)
        tensor_parallel.model_parallel_cuda_manual_seed(seed)
        yield World(
            rank=rank.index,
            size=rank.world_size,
            device=device,
            tensor_size=parallel_state.get_tensor_model_parallel_world_size(),
            data_rank=parallel_state.get_data_parallel_rank(),
            data_size=parallel_state.get_data_parallel_world_size(),
            context_rank=parallel_state.get_context_parallel_rank(),
            context_size=parallel_state.get_context_parallel_world_size(),
            is_first_stage=parallel_state.is_pipeline_first_stage(),
            is_last_stage=parallel_state.is_pipeline_last_stage(),
            data_and_context_group=parallel_state.get_data_parallel_group(
                with_context_parallel=True
            ),
            pipeline_group=parallel_state.get_pipeline_model_parallel_group(),
            pipeline_last_rank=parallel_state.get_pipeline_model_parallel_last_rank(),
        )
    finally:
        parallel_state.destroy_model_parallel()
