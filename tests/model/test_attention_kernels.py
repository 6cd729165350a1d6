"""Each card's attention kernels, by what CUDA would report."""

import pytest
import torch
from torch.nn import attention
from torch.nn.attention import SDPBackend

from megatron_in2.model import attention_kernels
from megatron_in2.model.attention_kernels import (
    CUDNN_FIRST,
    FLASH_FIRST,
    attention_kernels_of,
    kernels_of_card,
)

CUDA = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "has_flash_3", "name", "order"),
    [
        ((8, 0), False, "FlashAttention 2", FLASH_FIRST),
        ((8, 9), True, "FlashAttention 2", FLASH_FIRST),  # 3 is for Hopper alone
        ((9, 0), False, "cuDNN", CUDNN_FIRST),
        ((9, 0), True, "FlashAttention 3", FLASH_FIRST),
        ((10, 0), True, "cuDNN", CUDNN_FIRST),
        ((12, 0), False, "cuDNN", CUDNN_FIRST),
    ],
)
def test_the_card_decides(
    capability: tuple[int, int], has_flash_3: bool, name: str, order: tuple[SDPBackend, ...]
) -> None:
    kernels = kernels_of_card(capability, has_flash_3)
    assert (kernels.name, kernels.order) == (name, order)
    assert set(kernels.order) >= {SDPBackend.FLASH_ATTENTION, SDPBackend.MATH}


def test_the_order_rules_inside_the_block_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention_kernels, "find_flash_3", lambda: False)
    before = torch._C._get_sdp_priority_order()
    assert before[0] != SDPBackend.CUDNN_ATTENTION.value
    with attention_kernels_of(CUDA) as kernels:
        assert kernels is not None
        assert torch._C._get_sdp_priority_order()[0] == SDPBackend.CUDNN_ATTENTION.value
        assert torch.backends.cuda.flash_sdp_enabled()  # rows of several samples need it
    assert torch._C._get_sdp_priority_order()[: len(FLASH_FIRST)] == before[: len(FLASH_FIRST)]


def test_flash_3_is_put_in_place_and_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention_kernels, "find_flash_3", lambda: True)
    monkeypatch.setattr(attention, "activate_flash_attention_impl", calls.append, raising=False)
    monkeypatch.setattr(
        attention, "restore_flash_attention_impl", lambda: calls.append("restored"), raising=False
    )
    with attention_kernels_of(CUDA):
        assert calls == ["FA3"]
    assert calls == ["FA3", "restored"]


def test_a_cpu_has_nothing_to_choose() -> None:
    before = torch._C._get_sdp_priority_order()
    with attention_kernels_of(torch.device("cpu")) as kernels:
        assert kernels is None
        assert torch._C._get_sdp_priority_order() == before
