"""The job's key-value store, through which the ranks report to rank 0."""

import os
import time
from collections.abc import Iterable
from datetime import timedelta

from torch._C._distributed_c10d import Store, TCPStore

from megatron_in2.cluster.findings import CheckConfig, NodeFaultError
from megatron_in2.parallel.rank import Rank

PRINT_SECONDS = 10.0  # for rank 0 to print its error before another rank's end ends the step


def join_store(config: CheckConfig, rank: Rank, node: str) -> Store:
    """Join the store that rank 0 serves.

    Raises:
        NodeFaultError: rank 0 cannot be reached from this node.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    try:
        return TCPStore(
            address,
            port,
            world_size=rank.world_size,
            is_master=rank.index == 0,
            timeout=timedelta(seconds=config.timeout_seconds),
            wait_for_workers=False,
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        fault = f"{node}: rank {rank.index} cannot reach {address}:{port} ({reason})"
        raise NodeFaultError([node], [fault]) from error


def wait_for_all(store: Store, key: str, ranks: Iterable[int], seconds: float) -> dict[int, bytes]:
    """Return the values under ``KEY/RANK`` by rank, once all are set or the time is up."""
    deadline = time.monotonic() + seconds
    values = {}
    for index in ranks:
        try:
            left = max(deadline - time.monotonic(), 0.1)
            store.wait([f"{key}/{index}"], timedelta(seconds=left))
            values[index] = store.get(f"{key}/{index}")
        except RuntimeError:  # torch's DistStoreError: the time is up
            continue
    return values
