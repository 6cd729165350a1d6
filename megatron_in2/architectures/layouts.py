"""Pure merge and split functions between Hugging Face's matrices and Megatron-Core's fused ones.

Shapes: H query heads, G key/value groups, D head width, F feed-forward width, E hidden size.
None of them permutes rows for rotary embedding, because both sides rotate halves. torch is imported
inside the functions, so that a command that only reads names and shapes starts without it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def merge_qkv(query: "Tensor", key: "Tensor", value: "Tensor", groups: int) -> "Tensor":
    """Fuse query [H D, E], key [G D, E] and value [G D, E] into ``linear_qkv``, [(H + 2 G) D, E].

    Biases are the same without E. Rows are ordered by group: the H / G query heads of a group, then
    its key, then its value.
    """
    import torch

    width, columns = key.size(0) // groups, query.shape[1:]
    parts = [
        query.view(groups, -1, width, *columns),
        key.view(groups, 1, width, *columns),
        value.view(groups, 1, width, *columns),
    ]
    return torch.cat(parts, dim=1).reshape(-1, *columns)


def split_qkv(fused: "Tensor", heads: int, groups: int) -> "tuple[Tensor, Tensor, Tensor]":
    """Undo :func:`merge_qkv`."""
    import torch

    per_group = heads // groups
    width, columns = fused.size(0) // (heads + 2 * groups), fused.shape[1:]
    grouped = fused.view(groups, per_group + 2, width, *columns)
    query, key, value = torch.split(grouped, [per_group, 1, 1], dim=1)
    return (
        query.reshape(-1, *columns),
        key.reshape(-1, *columns),
        value.reshape(-1, *columns),
    )


def merge_gate_up(gate: "Tensor", up: "Tensor") -> "Tensor":
    """Stack gate [F, E] on up [F, E]: the whole ``linear_fc1`` [2 F, E] as checkpoints store it.

    (A tensor-parallel rank has [gate_i; up_i]; Megatron-Core's checkpoint factory splits it, so
    the stored matrix is not interleaved.)
    """
    import torch

    return torch.cat([gate, up])


def split_gate_up(fused: "Tensor") -> "tuple[Tensor, Tensor]":
    """Undo :func:`merge_gate_up`."""
    gate, up = fused.chunk(2)
    return gate, up
