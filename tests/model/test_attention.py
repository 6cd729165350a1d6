"""Which kernel attention calls on CUDA, as far as a machine without a GPU can tell.

Fake tensors carry shapes and devices through torch's real operators and compute nothing.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_in2.model.attention import HAS_VARLEN, HeadAttention, PackedAttention
from megatron_in2.model.packed_row import packed_row

CUDA = torch.device("cuda", 0)
VARLEN = "torch_attn._varlen_attn"


class _Calls(TorchDispatchMode):
    """Records the attention operators that are called, with their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[Any, ...]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "attn" in str(func) or "attention" in str(func):
            self.found.append((str(func), args))
        return func(*args, **(kwargs or {}))


def _takes_row_at_once(
    lengths: list[int], dtype: torch.dtype, width: int = 16, context_size: int = 1
) -> bool:
    with FakeTensorMode():
        query = torch.empty(sum(lengths) // context_size, 8, width, device=CUDA, dtype=dtype)
        return PackedAttention._takes_row_at_once(query, packed_row(lengths, CUDA, context_size))


@pytest.mark.skipif(not HAS_VARLEN, reason="this torch has no variable-length attention")
def test_several_samples_are_one_call_with_their_boundaries() -> None:
    config = SimpleNamespace(num_query_groups=2, num_attention_heads=8)
    attention = PackedAttention(config, pg_collection=SimpleNamespace(cp=None))
    with FakeTensorMode(), _Calls() as calls:
        query = torch.empty(64, 8, 16, device=CUDA, dtype=torch.bfloat16)
        key, value = torch.empty(2, 64, 2, 16, device=CUDA, dtype=torch.bfloat16)
        row = packed_row([16, 48], CUDA)
        output = attention(query, key, value, None, packed_seq_params=row)
        assert output.shape == (64, 8 * 16)
    [(name, arguments)] = calls.found
    assert VARLEN in name
    query, key, _, borders, key_borders, longest, longest_keys, is_causal, _, window, grouped = (
        arguments[:11]
    )
    assert (query.shape, key.shape) == ((64, 8, 16), (64, 2, 16))
    assert (borders.shape, borders.dtype, key_borders.shape) == ((3,), torch.int32, (3,))
    assert (longest, longest_keys) == (48, 48)
    assert is_causal
    assert (window, grouped) == ([-1, 0], True)


@pytest.mark.parametrize(
    "case",
    [
        {"lengths": [64], "dtype": torch.bfloat16},
        {"lengths": [16, 48], "dtype": torch.float32},
        {"lengths": [16, 48], "dtype": torch.bfloat16, "width": 12},
        {"lengths": [16, 48], "dtype": torch.bfloat16, "context_size": 2},
    ],
    ids=["one sample", "float32", "odd width", "context parallel"],
)
def test_other_rows_take_a_call_a_sample(case: dict[str, Any]) -> None:
    assert not _takes_row_at_once(**case)


@pytest.mark.skipif(not HAS_VARLEN, reason="this torch has no variable-length attention")
def test_the_switch_for_flash_attention_applies() -> None:
    assert _takes_row_at_once([16, 48], torch.bfloat16)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert not _takes_row_at_once([16, 48], torch.bfloat16)


def test_on_a_cpu_every_sample_takes_a_call() -> None:
    query = torch.empty(64, 8, 16, dtype=torch.bfloat16)
    assert not PackedAttention._takes_row_at_once(query, packed_row([16, 48], query.device))


def test_the_heads_queries_take_a_call_a_group() -> None:
    """Groups of answers see overlapping keys, which ``cu_seqlens`` cannot express."""
    with FakeTensorMode():
        row = packed_row([16, 48], CUDA, head_positions=np.array([4, 5, 40, 41, 60]))
        query = torch.empty(5, 8, 16, device=CUDA, dtype=torch.bfloat16)
        assert not PackedAttention._takes_row_at_once(query, row.of_head())


@pytest.mark.parametrize("groups", [2, 8])
def test_the_heads_outputs_are_those_of_the_whole_row(groups: int) -> None:
    config = SimpleNamespace(num_query_groups=groups, num_attention_heads=8)
    ours, whole = (
        each(config, pg_collection=SimpleNamespace(cp=None))
        for each in (HeadAttention, PackedAttention)
    )
    query, key, value = (torch.randn(64, heads, 16) for heads in (8, groups, groups))
    positions = np.array([4, 5, 40, 41, 60, 0])
    row = packed_row([16, 48], query.device, head_positions=positions)
    found = ours(query, key, value, None, packed_seq_params=row)
    expected = whole(query, key, value, None, packed_seq_params=row)
    torch.testing.assert_close(found, expected[positions])
