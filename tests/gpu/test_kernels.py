"""Every attention kernel of the card against float32 on the CPU, forward and backward."""

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_in2.model.attention import HAS_VARLEN, HeadAttention, PackedAttention
from megatron_in2.model.attention_kernels import attention_kernels_of, find_flash_3
from megatron_in2.model.packed_row import packed_row

HEADS, GROUPS, WIDTH = 8, 2, 64
BOUND = 2e-2  # of the largest element: bfloat16 has 8 bits
KERNELS = {
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
ROWS = {"one sample": [512], "several samples": [96, 32, 384]}
Result = tuple[torch.Tensor, ...]


def _attend(device: str, dtype: torch.dtype, lengths: list[int], head: bool) -> Result:
    """Return attention's output and the gradients of queries, keys and values, on the CPU."""
    torch.manual_seed(3)
    shapes = [(512, heads, WIDTH) for heads in (HEADS, GROUPS, GROUPS)]
    inputs = [
        torch.randn(shape).to(torch.bfloat16).to(device, dtype).requires_grad_() for shape in shapes
    ]
    config = SimpleNamespace(num_query_groups=GROUPS, num_attention_heads=HEADS)
    kind = HeadAttention if head else PackedAttention
    core = kind(config, pg_collection=SimpleNamespace(cp=None))
    positions = np.array([4, 5, 40, 41, 511, 0]) if head else None
    row = packed_row(lengths, torch.device(device), head_positions=positions)
    output = core(*inputs, None, packed_seq_params=row)
    output.backward(torch.ones_like(output) / 8)
    return tuple(each.detach().float().cpu() for each in (output, *(x.grad for x in inputs)))


def _assert_near(found: Result, expected: Result) -> None:
    for name, ours, reference in zip(["output", "dq", "dk", "dv"], found, expected, strict=True):
        assert reference.abs().max() > 0, name
        error = (ours - reference).abs().max() / reference.abs().max()
        assert error < BOUND, f"{name}: {error:.1e}"


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
def test_each_kernel_agrees(kernel: str, lengths: list[int]) -> None:
    expected = _attend("cpu", torch.float32, lengths, head=False)
    with sdpa_kernel(KERNELS[kernel]):
        try:
            found = _attend("cuda", torch.bfloat16, lengths, head=False)
        except RuntimeError as error:
            if "No available kernel" not in str(error):
                raise
            pytest.skip(f"{kernel} does not take grouped queries on this card")
    _assert_near(found, expected)


@pytest.mark.parametrize("head", [False, True], ids=["all queries", "the head's queries"])
@pytest.mark.parametrize("lengths", ROWS.values(), ids=ROWS)
def test_the_cards_own_choice_agrees(lengths: list[int], head: bool) -> None:
    expected = _attend("cpu", torch.float32, lengths, head)
    with attention_kernels_of(torch.device("cuda", 0)) as kernels:
        assert kernels is not None
        found = _attend("cuda", torch.bfloat16, lengths, head)
    _assert_near(found, expected)


@pytest.mark.skipif(not HAS_VARLEN, reason="this torch has no variable-length attention")
def test_a_row_at_once_is_what_calls_a_sample_give() -> None:
    lengths = ROWS["several samples"]
    at_once = _attend("cuda", torch.bfloat16, lengths, head=False)
    with sdpa_kernel(SDPBackend.MATH):  # takes a call a sample
        one_by_one = _attend("cuda", torch.bfloat16, lengths, head=False)
    _assert_near(at_once, one_by_one)


def test_a_wrong_border_is_noticed() -> None:
    """The control: two samples in one are further away than the bound."""
    expected = _attend("cpu", torch.float32, [96, 416], head=False)
    found = _attend("cuda", torch.bfloat16, [512], head=False)
    with pytest.raises(AssertionError, match="output"):
        _assert_near(found, expected)


@pytest.mark.skipif(not find_flash_3(), reason="FlashAttention 3 is not installed")
def test_flash_3_agrees(request: pytest.FixtureRequest) -> None:
    restore: Callable[[], None] = attention.restore_flash_attention_impl
    attention.activate_flash_attention_impl("FA3")
    request.addfinalizer(restore)
    for lengths in ROWS.values():
        _assert_near(
            _attend("cuda", torch.bfloat16, lengths, head=False),
            _attend("cpu", torch.float32, lengths, head=False),
        )
