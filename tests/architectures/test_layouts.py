"""Merging and splitting, against matrices written by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_in2.architectures.layouts import merge_gate_up, merge_qkv, split_gate_up, split_qkv


def rows(*labels: int) -> torch.Tensor:
    """A matrix of two columns whose values identify their row."""
    return torch.tensor([[label, -label] for label in labels], dtype=torch.float32)


def test_qkv_by_hand() -> None:
    # 4 query heads in 2 groups, heads 2 wide. Hundreds: 1 query, 2 key, 3 value; tens: the head.
    query = rows(100, 101, 110, 111, 120, 121, 130, 131)
    key, value = rows(200, 201, 210, 211), rows(300, 301, 310, 311)
    expected = rows(
        *(100, 101, 110, 111, 200, 201, 300, 301),  # group 0: heads 0 and 1, its key, its value
        *(120, 121, 130, 131, 210, 211, 310, 311),  # group 1
    )
    assert torch.equal(merge_qkv(query, key, value, groups=2), expected)


def test_a_bias_is_laid_out_as_the_rows_of_its_matrix() -> None:
    query, key, value = (torch.randn(count * 4, 5) for count in (6, 3, 3))
    columns = merge_qkv(query[:, 2], key[:, 2], value[:, 2], groups=3)
    assert torch.equal(columns, merge_qkv(query, key, value, groups=3)[:, 2])


def test_gate_up_by_hand() -> None:
    fused = merge_gate_up(rows(1, 2, 3), rows(11, 12, 13))
    assert torch.equal(fused, rows(1, 2, 3, 11, 12, 13))


@settings(max_examples=60, deadline=None)
@given(
    groups=st.integers(1, 5),
    per_group=st.integers(1, 8),
    width=st.integers(1, 6),
    columns=st.sampled_from([(), (1,), (9,)]),  # biases have none
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)
def test_qkv_round_trip(
    groups: int, per_group: int, width: int, columns: tuple[int, ...], dtype: torch.dtype
) -> None:
    heads = groups * per_group
    query = torch.randn(heads * width, *columns).to(dtype)
    key, value = (torch.randn(groups * width, *columns).to(dtype) for _ in range(2))
    fused = merge_qkv(query, key, value, groups)
    assert fused.shape == ((heads + 2 * groups) * width, *columns)
    for part, whole in zip(split_qkv(fused, heads, groups), (query, key, value), strict=True):
        assert torch.equal(part, whole)


@settings(max_examples=30, deadline=None)
@given(feed_forward=st.integers(1, 20), hidden=st.integers(1, 9))
def test_gate_up_round_trip(feed_forward: int, hidden: int) -> None:
    gate, up = torch.randn(2, feed_forward, hidden)
    split = split_gate_up(merge_gate_up(gate, up))
    assert torch.equal(split[0], gate)
    assert torch.equal(split[1], up)


@pytest.mark.parametrize(("heads", "groups"), [(8, 8), (8, 4), (8, 2), (8, 1)])
def test_plain_stacking_is_another_layout(heads: int, groups: int) -> None:
    """Control: query on key on value, which other code bases use, is not what is stored here."""
    query, key, value = (torch.randn(count * 4, 16) for count in (heads, groups, groups))
    is_same = torch.equal(merge_qkv(query, key, value, groups), torch.cat([query, key, value]))
    assert is_same == (groups == 1)
