"""Ranks read their index from torchrun's or srun's variables, or name the missing one."""

import pytest

from megatron_in2.errors import InputError
from megatron_in2.parallel.rank import Rank, rank_from_environment

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "16", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}
SRUN = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS_PER_NODE": "4",
    "MASTER_ADDR": "node01",
}


@pytest.mark.parametrize("environment", [TORCHRUN, SRUN])
def test_launchers(environment: dict[str, str]) -> None:
    assert rank_from_environment(environment) == Rank(5, 16, 1, 4)


def test_a_shell_inside_a_slurm_job_is_no_rank() -> None:
    assert rank_from_environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"}) is None
    assert rank_from_environment({}) is None


@pytest.mark.parametrize("change", [{"WORLD_SIZE": ""}, {"LOCAL_RANK": "x"}])
def test_an_incomplete_environment_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(InputError, match="launcher's environment"):
        rank_from_environment({**TORCHRUN, **change})
