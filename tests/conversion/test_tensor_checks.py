"""Counting NaN and infinities, and comparing bits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.conversion.tensor_checks import count_not_finite, same_bits

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(width=16), min_size=1, max_size=40),
    dtype=st.sampled_from(DTYPES),
)
def test_nan_and_infinities_are_counted(values: list[float], dtype: torch.dtype) -> None:
    found = count_not_finite(torch.tensor(values, dtype=dtype))
    assert found == sum(not math.isfinite(value) for value in values)


@pytest.mark.parametrize("dtype", DTYPES)
def test_bits_tell_what_values_do_not(dtype: torch.dtype) -> None:
    zeros = torch.zeros(3, dtype=dtype)
    nan = torch.full((3,), float("nan"), dtype=dtype)
    assert same_bits(zeros, zeros.clone())
    assert same_bits(nan, nan.clone())
    assert torch.equal(zeros, -zeros)
    assert not same_bits(zeros, -zeros)


def test_dtypes_differ() -> None:
    assert not same_bits(torch.zeros(2, dtype=torch.bfloat16), torch.zeros(2, dtype=torch.float16))
