"""What torch's flight recorder knows of this rank's collectives, over gloo and NCCL.

torch keeps the last collectives of every process group in memory. After a hang they show which
ranks have not begun the one that the others wait in.
"""

import json
import os
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch._C import _distributed_c10d

_recorder: Any = _distributed_c10d  # its stubs lack the recorder
RECORDED_COLLECTIVES = 2000  # of each rank; torchtitan keeps 20,000, most of them of no use here


@dataclass(frozen=True)
class GroupProgress:
    """How far this rank has come in one process group.

    Args:
        ranks: global ranks of the group.
        begun: collectives that this rank has begun in it.
        name: of the last one.
    """

    ranks: tuple[int, ...]
    begun: int
    name: str


def record_collectives() -> None:
    """Switch the recorder on, before the first process group is made; the user's setting wins."""
    os.environ.setdefault("TORCH_FR_BUFFER_SIZE", str(RECORDED_COLLECTIVES))


def group_progress() -> dict[str, GroupProgress]:
    """Return this rank's progress in each of its groups that are in the recorder, by group."""
    members = {
        name: tuple(sorted(dist.distributed_c10d._world.pg_group_ranks[group]))
        for group, name in dist.distributed_c10d._world.pg_names.items()
        if group in dist.distributed_c10d._world.pg_group_ranks
    }
    found = {str(name): GroupProgress(ranks, 0, "") for name, ranks in members.items()}
    recorded = json.loads(_recorder._dump_fr_trace_json(True, False))
    for entry in recorded.get("entries", []):
        name = entry["process_group"][0]
        known = found.get(name)
        if known and not entry["is_p2p"] and entry["collective_seq_id"] > known.begun:
            operation = entry["profiling_name"].partition(":")[2]
            found[name] = GroupProgress(known.ranks, entry["collective_seq_id"], operation)
    return found


def recorded_trace() -> bytes:
    """Return all that was recorded, as ``torchfrtrace`` reads it from a file for each rank."""
    return bytes(_recorder._dump_fr_trace())
