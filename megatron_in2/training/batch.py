"""One packed row as tensors, cut for this context-parallel rank.

Shapes: S tokens of the row, T = S / CP of them on this rank.
"""

from dataclasses import dataclass

import numpy as np
import torch

from megatron_in2.data.dataset import Row
from megatron_in2.model.packed_row import PackedRow, context_indices, packed_row
from megatron_in2.parallel.world import World


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one row.

    ``tokens``, ``labels`` and ``positions`` are int64 [1, T]; ``loss_mask`` is uint8 [1, T] and
    label-aligned: 1 where the next token, of the same sample, is learnt.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    positions: torch.Tensor
    packing: PackedRow
    row: Row


def make_batch(row: Row, world: World) -> Batch:
    """Turn a row into what the model takes; nothing crosses a sample's border.

    The stored mask is target-aligned. Shifted by one it says where the prediction is made; a
    sample's last position predicts nothing, whatever stands behind it.
    """
    labels, mask = np.roll(row.tokens, -1), np.roll(row.loss_mask, -1)
    ends = np.cumsum(row.lengths)
    mask[ends - 1] = 0
    starts = np.repeat(ends - row.lengths, row.lengths)
    positions = np.arange(len(row.tokens)) - starts
    own = context_indices(row.lengths, world.context_size, world.context_rank)

    def cut(values: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        return torch.from_numpy(values)[own].unsqueeze(0).to(world.device, non_blocking=True)

    return Batch(
        tokens=cut(row.tokens),
        labels=cut(labels),
        loss_mask=cut(mask),
        positions=cut(positions),
        packing=packed_row(row.lengths, world.device, world.context_size, world.context_rank),
        row=row,
    )
