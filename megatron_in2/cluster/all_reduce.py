"""Measures an all-reduce over all ranks of the job, and names the nodes that do not take part."""

import os
import time
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from megatron_in2.cluster.findings import CheckConfig, NodeFaultError, node_of_rank
from megatron_in2.cluster.rendezvous import PRINT_SECONDS, wait_for_all
from megatron_in2.parallel.rank import Rank

ROUNDS = 5  # timed all-reduces


def bus_bandwidth(size_bytes: int, seconds: float, world_size: int) -> float:
    """Return the bytes a second on each rank's link in an all-reduce, as nccl-tests counts them.

    An optimal all-reduce moves 2 (n - 1) / n times the data over every link.
    """
    return size_bytes / seconds * 2 * (world_size - 1) / world_size


def measure_all_reduce(store: Store, config: CheckConfig, rank: Rank, node: str) -> str | None:
    """All-reduce a few times over all ranks, check the sum, and return a line with the speed.

    Every rank must call it. Returns None on all ranks but 0.

    Raises:
        NodeFaultError: the sum is wrong, a rank is missing, or the collective failed.
    """
    on_gpu = torch.cuda.is_available()
    # A collective that hangs then ends with an exception after the timeout.
    os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")
    store.set(f"arrived/{rank.index}", "")
    try:
        seconds, is_right = _time_all_reduce(store, config, rank, on_gpu)
    except RuntimeError as error:
        if rank.index > 0:
            time.sleep(PRINT_SECONDS)
        raise _all_reduce_failure(store, config, rank, node, error) from error
    if not is_right:
        raise NodeFaultError([node], [f"{node}: rank {rank.index} got a wrong sum"])
    if rank.index > 0:
        return None
    size = config.megabytes * 2**20
    return (
        f"{len(config.nodes)} nodes, {rank.world_size} ranks, all alike; all-reduce of "
        f"{config.megabytes} MiB over {'NCCL' if on_gpu else 'gloo'}: {1e3 * seconds:.1f} ms, "
        f"{bus_bandwidth(size, seconds, rank.world_size) / 1e9:.2f} GB/s on each rank's link"
    )


def _time_all_reduce(
    store: Store, config: CheckConfig, rank: Rank, on_gpu: bool
) -> tuple[float, bool]:
    """Return the seconds of one all-reduce, and whether its sum is right."""
    dist.init_process_group(
        "nccl" if on_gpu else "gloo",
        store=PrefixStore("collective", store),
        rank=rank.index,
        world_size=rank.world_size,
        timeout=timedelta(seconds=config.timeout_seconds),
    )
    try:
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu"
        data = torch.full((config.megabytes * 2**18,), rank.index + 1.0, device=device)
        _all_reduce(data, on_gpu)  # not timed: it also connects the ranks
        is_right = bool((data == rank.world_size * (rank.world_size + 1) / 2).all())
        started = time.perf_counter()
        for _ in range(ROUNDS):
            _all_reduce(data, on_gpu)
        return (time.perf_counter() - started) / ROUNDS, is_right
    finally:
        dist.destroy_process_group()


def _all_reduce_failure(
    store: Store, config: CheckConfig, rank: Rank, node: str, error: RuntimeError
) -> NodeFaultError:
    """Return the error: this rank's reason and, on rank 0, the ranks that never arrived."""
    reason = str(error).splitlines()[0]
    faults = [f"{node}: all-reduce failed on rank {rank.index}: {reason}"]
    arrived = wait_for_all(store, "arrived", range(rank.world_size), 1.0) if not rank.index else {}
    absent = sorted(set(range(rank.world_size)) - set(arrived)) if not rank.index else []
    nodes = [node_of_rank(index, config, rank.local_world_size) for index in absent]
    faults += [
        f"{name}: rank {index} did not arrive" for name, index in zip(nodes, absent, strict=True)
    ]
    return NodeFaultError(sorted(set(nodes)), faults)


def _all_reduce(data: torch.Tensor, on_gpu: bool) -> None:
    dist.all_reduce(data)
    if on_gpu:
        torch.cuda.synchronize()
