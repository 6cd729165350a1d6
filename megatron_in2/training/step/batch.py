"""One packed row as tensors, cut for this context-parallel rank.

Shapes: S tokens of the row, T = S / CP of them on this rank.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from megatron_in2.data.packed.dataset import Row
from megatron_in2.model.packed_row import PackedRow, context_indices, packed_row
from megatron_in2.parallel.world import World


@dataclass(frozen=True)
class Batch:
    """A micro-batch of one row.

    ``tokens``, ``labels``, ``positions`` and ``sequences`` (which of the row's sequences a token
    belongs to) are int64 [1, T]; ``loss_mask`` is uint8 [1, T] and label-aligned: 1 where the
    next token, of the same sample, is learnt. ``sample_weights``, float32 [sequences of the row],
    weighs each sample's token losses; ``normaliser`` is what this rank adds to the global
    batch's divisor.
    """

    tokens: torch.Tensor
    labels: torch.Tensor
    loss_mask: torch.Tensor
    positions: torch.Tensor
    sequences: torch.Tensor
    sample_weights: torch.Tensor
    normaliser: int
    packing: PackedRow
    row: Row


def make_batch(row: Row, world: World, normalisation: str = "token") -> Batch:
    """Turn a row into what the model takes; nothing crosses a sample's border.

    The stored mask is target-aligned. Shifted by one it says where the prediction is made; a
    sample's last position predicts nothing, whatever stands behind it.

    Args:
        row: the packed row.
        world: this rank's place.
        normalisation: token | sample, as in :class:`OptimizerConfig`.
    """
    labels, mask = np.roll(row.tokens, -1), np.roll(row.loss_mask, -1)
    ends = np.cumsum(row.lengths)
    mask[ends - 1] = 0
    positions = np.arange(len(row.tokens)) - np.repeat(ends - row.lengths, row.lengths)
    sequences = np.repeat(np.arange(len(row.lengths)), row.lengths)
    learnt = np.bincount(sequences, weights=mask, minlength=len(row.lengths))
    own: npt.NDArray[np.int64] | slice = slice(None)  # all of it, and no copy
    if world.context_size > 1:
        own = context_indices(row.lengths, world.context_size, world.context_rank).numpy()

    def cut(values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values[own]).unsqueeze(0).to(world.device, non_blocking=True)

    if normalisation == "sample":
        weights = np.where(learnt > 0, 1.0 / np.maximum(learnt, 1), 0.0)
        # Every context rank sees the whole row's samples; one of them counts them.
        normaliser = int((learnt > 0).sum()) if world.context_rank == 0 else 0
    else:
        weights = np.ones(len(row.lengths))
        normaliser = int(mask[own].sum())
    return Batch(
        tokens=cut(row.tokens),
        labels=cut(labels),
        loss_mask=cut(mask),
        positions=cut(positions),
        sequences=cut(sequences),
        sample_weights=torch.from_numpy(weights).float().to(world.device),
        normaliser=normaliser,
        packing=packed_row(
            row.lengths,
            world.device,
            world.context_size,
            world.context_rank,
            _head_positions(mask[own], world.tensor_size),
        ),
        row=row,
    )


def _head_positions(mask: npt.NDArray[np.uint8], tensor_size: int) -> npt.NDArray[np.int64]:
    """Where the LM head is asked for: at answers, and behind them at the first token as padding.

    Sequence parallelism cuts them evenly over the tensor-parallel ranks; where there is none the
    model wants one for its stand-in of weight zero.
    """
    learnt = np.flatnonzero(mask)
    size = max(-(-len(learnt) // tensor_size), 1) * tensor_size
    return np.pad(learnt, (0, size - len(learnt)))
