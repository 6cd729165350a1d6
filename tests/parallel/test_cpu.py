"""Inside the adapter, every CUDA name means the CPU; afterwards nothing is changed."""

import pytest
import torch
from megatron.core.distributed import param_and_grad_buffer

from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.cpu import cuda_named_as_cpu
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here: not needed")


def test_cuda_names_mean_the_cpu() -> None:
    with cuda_named_as_cpu():
        made = [
            torch.zeros(2, device="cuda"),
            torch.tensor([1.0], device=torch.device("cuda", 0)),
            torch.empty(1, device=torch.cuda.current_device()),
            torch.ones(1).cuda(),
            torch.ones(1).to("cuda"),
            torch.cuda.FloatTensor([1.0]),
        ]
        torch.cuda.synchronize()
        assert torch.zeros(1).type() == "torch.cuda.FloatTensor"
    assert all(tensor.device.type == "cpu" for tensor in made)


def test_it_ends_with_the_block() -> None:
    with cuda_named_as_cpu():
        pass
    assert torch.zeros(1).type() == "torch.FloatTensor"
    with pytest.raises((AssertionError, RuntimeError)):
        torch.zeros(1, device="cuda")


@pytest.mark.parametrize("name", ["dist_all_gather_func", "dist_reduce_scatter_func"])
def test_a_group_of_one_rank_copies_no_buffer(name: str) -> None:
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        collective = getattr(param_and_grad_buffer, name)
        untouched = torch.zeros(4)
        assert collective(untouched, torch.ones(4), group=world.data_and_context_group) is None
    assert not untouched.any()
    assert getattr(param_and_grad_buffer, name) is not collective
