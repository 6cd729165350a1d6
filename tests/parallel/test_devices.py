"""The node's GPUs against what Slurm has granted, by what CUDA would report."""

import pytest
import torch

from megatron_in2.cluster.local import _gpu_faults
from megatron_in2.errors import InputError, UnfitNodeError
from megatron_in2.parallel.devices import (
    ALLOCATOR_SETTINGS,
    let_segments_grow,
    own_gpu,
    require_granted_gpus,
)
from megatron_in2.parallel.rank import Rank

GRANTED = {"SLURM_GPUS_ON_NODE": "8"}
LAST = Rank(index=15, world_size=16, local_index=7, local_world_size=8)


def _machine(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cuda: str | None = "13.0", error: str = ""
) -> None:
    def init() -> None:
        raise RuntimeError(error)

    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if error:
        monkeypatch.setattr(torch.cuda, "init", init)


def test_whole_nodes_and_machines_without_slurm_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, gpus=8)
    require_granted_gpus(GRANTED)
    assert own_gpu(LAST, GRANTED) == 7
    _machine(monkeypatch, gpus=0, cuda=None)
    require_granted_gpus({})
    require_granted_gpus({"SLURM_GPUS_ON_NODE": "0"})


@pytest.mark.parametrize(
    ("gpus", "cuda", "error", "words"),
    [
        (7, "13.0", "", "7 of the 8 GPUs that the job has here answer"),
        (0, "13.0", "Found no NVIDIA driver on your system", "CUDA fails: Found no NVIDIA driver"),
        (0, None, "", "is built without CUDA"),
    ],
)
def test_a_node_that_lacks_gpus_is_unfit(
    monkeypatch: pytest.MonkeyPatch, gpus: int, cuda: str | None, error: str, words: str
) -> None:
    _machine(monkeypatch, gpus, cuda, error)
    with pytest.raises(UnfitNodeError, match=words):
        require_granted_gpus(GRANTED)
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "8")
    (fault,) = _gpu_faults(LAST)  # what the check of the nodes reports
    assert words in fault


def test_no_two_ranks_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, gpus=7)
    with pytest.raises(InputError, match="rank 15 is number 8 on its node, which has 7 GPUs"):
        own_gpu(LAST, {})
    assert "has 7 GPUs" in _gpu_faults(LAST)[0]


def test_tasks_that_slurm_binds_to_one_gpu_each_use_it(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = {**GRANTED, "CUDA_VISIBLE_DEVICES": "0"}
    _machine(monkeypatch, gpus=1)
    require_granted_gpus(bound)
    assert own_gpu(LAST, bound) == 0


def test_segments_grow_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    monkeypatch.setattr(torch.cuda.memory, "_set_allocator_settings", given.append)
    for name in ALLOCATOR_SETTINGS:
        let_segments_grow({name: "max_split_size_mb:512"})
    assert given == []
    let_segments_grow({})
    assert given == ["expandable_segments:True"]
