"""The rank of this process, from its launcher's environment variables."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from megatron_in2.errors import InputError


@dataclass(frozen=True)
class Rank:
    """The place of this process among all processes of the job."""

    index: int
    world_size: int
    local_index: int
    local_world_size: int


def rank_from_environment(environment: Mapping[str, str] = os.environ) -> Rank | None:
    """Read torchrun's variables, or Slurm's where ``MASTER_ADDR`` is set.

    A Slurm job step without ``MASTER_ADDR`` is an ordinary process, not a rank.

    Returns:
        The rank, or None where this process is not part of a launched group.

    Raises:
        InputError: a variable of the set is missing or is not a number.
    """
    if "RANK" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    elif "SLURM_PROCID" in environment and "MASTER_ADDR" in environment:
        names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE")
    else:
        return None
    values = {**{names[3]: "1"}, **environment}
    try:
        return Rank(*(int(values[name]) for name in names))
    except (KeyError, ValueError) as error:
        raise InputError(f"the launcher's environment is incomplete: {error}") from error


SINGLE_RANK = Rank(index=0, world_size=1, local_index=0, local_world_size=1)
