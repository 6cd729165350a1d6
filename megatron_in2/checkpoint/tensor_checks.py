"""Checks of single tensors that both conversions and the verification share."""

import torch

_BITS = {2: torch.int16, 4: torch.int32}


def count_nan(tensor: torch.Tensor) -> int:
    """Return how many elements are NaN; one pass without a copy where there are none."""
    low, _ = tensor.aminmax()
    return int(tensor.isnan().sum()) if low.isnan() else 0


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors of one dtype are equal bit for bit: NaN and -0.0 are compared too.

    Shapes must be equal; dtypes are 2 or 4 bytes wide.
    """
    bits = _BITS[a.dtype.itemsize]
    return a.dtype == b.dtype and torch.equal(a.view(bits), b.view(bits))
