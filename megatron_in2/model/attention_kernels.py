"""Which of torch's attention kernels a card uses first.

torch's own order begins with FlashAttention 2 everywhere, which reaches about half of what Hopper
can do. There FlashAttention 3 is used where its package is installed, else cuDNN's kernel first;
newer cards begin with cuDNN's. A kernel that does not take a call (another dtype, another head
width) leaves it to the next of the order.
"""

import contextlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.nn import attention
from torch.nn.attention import SDPBackend, sdpa_kernel

HOPPER, NEWER = (9, 0), (10, 0)
FLASH_3_MODULE = "flash_attn_interface"  # of the package flash_attn_3
_OTHERS = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
FLASH_FIRST = (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, *_OTHERS)
CUDNN_FIRST = (SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, *_OTHERS)


@dataclass(frozen=True)
class AttentionKernels:
    """The order of torch's kernels, and an implementation of flash attention to put in place.

    Args:
        order: all of them; the first that takes a call runs.
        flash: ``FA3``, or empty for torch's own.
    """

    order: tuple[SDPBackend, ...]
    flash: str = ""

    @property
    def name(self) -> str:
        """What runs first, for the log."""
        if self.flash:
            return "FlashAttention 3"
        return "cuDNN" if self.order == CUDNN_FIRST else "FlashAttention 2"


def kernels_of_card(capability: tuple[int, int], has_flash_3: bool) -> AttentionKernels:
    """Return a card's kernels.

    Args:
        capability: the card's compute capability.
        has_flash_3: FlashAttention 3 is installed and this torch can activate it.
    """
    if capability < HOPPER:
        return AttentionKernels(FLASH_FIRST)
    if capability < NEWER and has_flash_3:
        return AttentionKernels(FLASH_FIRST, "FA3")
    return AttentionKernels(CUDNN_FIRST)


def find_flash_3() -> bool:
    """Say whether FlashAttention 3 is installed and this torch can activate it."""
    can_activate = hasattr(attention, "activate_flash_attention_impl")
    return can_activate and importlib.util.find_spec(FLASH_3_MODULE) is not None


@contextlib.contextmanager
def attention_kernels_of(device: torch.device) -> Iterator[AttentionKernels | None]:
    """Use a device's kernels inside the block; on a CPU there is nothing to choose.

    ``torch.nn.attention.sdpa_kernel`` inside the block still rules which kernels may run.
    """
    if device.type != "cuda":
        yield None
        return
    kernels = kernels_of_card(torch.cuda.get_device_capability(device), find_flash_3())
    if kernels.flash:
        attention.activate_flash_attention_impl(kernels.flash)
    try:
        with sdpa_kernel(list(kernels.order), set_priority=True):
            yield kernels
    finally:
        if kernels.flash:
            attention.restore_flash_attention_impl()
