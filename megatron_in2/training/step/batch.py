"""One packed row as tensors, cut for this context-parallel rank.

Shapes: S tokens in the row, T = S / CP of them on this rank, N sequences in the row (samples, and
the padding at its end).
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

    Args:
        tokens: int64 [1, T].
        labels: int64 [1, T], the token after each one.
        loss_mask: uint8 [1, T], aligned with ``labels``: 1 where the next token belongs to the
            same sample and is trained on.
        positions: int64 [1, T], from 0 in each sequence.
        sequences: int64 [1, T], index of the sequence that a token belongs to.
        sample_weights: float32 [N], factor of each sequence's token losses.
        normaliser: what this rank adds to the divisor of the global batch's loss.
        packing: where sequences begin, and at which positions the LM head runs.
        row: the row itself.
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
    """Turn a packed row into the model's inputs; no sample influences another.

    Args:
        row: the packed row.
        world: this rank's place.
        normalisation: token | sample, as in :class:`OptimizerConfig`.
    """
    # The stored mask is aligned with targets: 1 at a token that is to be predicted. The model
    # predicts token i + 1 at position i, so labels and mask both move one place to the left.
    labels, mask = np.roll(row.tokens, -1), np.roll(row.loss_mask, -1)
    ends = np.cumsum(row.lengths)
    # After the roll, the last position of each sequence would predict the first token of the next
    # sequence (in the last one, the first token of the row). That token belongs to another sample.
    mask[ends - 1] = 0
    # Positions restart at 0 in each sequence, as if every sample had a row of its own.
    positions = np.arange(len(row.tokens)) - np.repeat(ends - row.lengths, row.lengths)
    sequences = np.repeat(np.arange(len(row.lengths)), row.lengths)
    answer_tokens = np.bincount(sequences, weights=mask, minlength=len(row.lengths))
    own: npt.NDArray[np.int64] | slice = slice(None)  # the whole row, without a copy
    if world.context_size > 1:
        # A context rank has two of the 2 x CP chunks of each sample, one from its start and one
        # from its end, so that causal attention costs all ranks the same. Everything above was
        # computed on the whole row, because labels and positions cross the chunks.
        own = context_indices(row.lengths, world.context_size, world.context_rank).numpy()

    def cut(values: npt.NDArray[np.generic]) -> torch.Tensor:
        return torch.from_numpy(values[own]).unsqueeze(0).to(world.device, non_blocking=True)

    # Weights and normaliser stay apart: the loss is (sum of weight x token loss) / (sum of
    # normalisers), and the divisor is known only once all micro-batches and ranks have been
    # added (see loss.py). Dividing here would give a row with few answers too much weight.
    if normalisation == "sample":
        weights = np.where(answer_tokens > 0, 1.0 / np.maximum(answer_tokens, 1), 0.0)
        # The ranks of a context-parallel group share the row's samples: one rank counts them.
        normaliser = int((answer_tokens > 0).sum()) if world.context_rank == 0 else 0
    else:
        weights = np.ones(len(row.lengths))
        # Each context rank counts the answer tokens of its own positions.
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
    """Return the positions of the LM head, int64: the answers, then position 0 as padding.

    Sequence parallelism divides them evenly among the tensor-parallel ranks. There is at least one
    for each, because a row without answers needs a term of weight zero for its backward pass.
    """
    answers = np.flatnonzero(mask)
    size = max(-(-len(answers) // tensor_size), 1) * tensor_size
    return np.pad(answers, (0, size - len(answers)))
