"""Checks of single tensors that both conversions and the verification share."""

import torch

_BITS = {2: torch.int16, 4: torch.int32}


def count_not_finite(tensor: torch.Tensor) -> int:
    """Return how many elements are NaN or infinite; one pass, no copy, where there are none."""
    extremes = torch.stack(tensor.aminmax())
    return 0 if extremes.isfinite().all() else int((~tensor.isfinite()).sum())


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Tell whether two tensors of one dtype are equal bit for bit: NaN and -0.0 are compared too.

    Shapes must be equal; dtypes are 2 or 4 bytes wide.
    """
    bits = _BITS[a.dtype.itemsize]
    return a.dtype == b.dtype and torch.equal(a.view(bits), b.view(bits))
