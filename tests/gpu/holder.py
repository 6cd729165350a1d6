"""Holds the GPU's memory in this process, so that another one finds little."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def all_memory_but(free_bytes: int) -> Iterator[None]:
    """Leave so many bytes of the GPU's memory free inside the block."""
    free, _ = torch.cuda.mem_get_info()
    held = torch.empty(max(free - free_bytes, 0), dtype=torch.uint8, device="cuda")
    try:
        yield
    finally:
        del held
        torch.cuda.empty_cache()
