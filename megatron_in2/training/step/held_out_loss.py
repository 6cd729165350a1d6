"""The answer loss on held-out data: as a whole, by sample length and by evidence position."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.training.state import TrainingState
from megatron_in2.training.step.batch import Batch, make_batch
from megatron_in2.training.step.loss import answer_sequences, global_sums, make_forward_step

POSITION_BINS = 8  # of the context, from start to end
LENGTH_BINS = 4  # of the row length

# Bucket 0 has every sample; then come the positions, then the lengths.
BUCKETS = 1 + POSITION_BINS + LENGTH_BINS


def bucket_names(name: str, seq_length: int) -> list[str]:
    """Return the names of the buckets in the metrics log, in order."""
    positions = [
        f"position_{100 * i / POSITION_BINS:.0f}-{100 * (i + 1) / POSITION_BINS:.0f}%"
        for i in range(POSITION_BINS)
    ]
    step = seq_length // LENGTH_BINS
    lengths = [f"length_{i * step}-{(i + 1) * step}" for i in range(LENGTH_BINS)]
    return [name, *(f"{name}/{bucket}" for bucket in positions + lengths)]


@torch.no_grad()
def held_out_loss(
    state: TrainingState, dataset: PackedDataset, name: str, limit: int
) -> dict[str, float]:
    """Measure the loss on the answer tokens of a dataset's first rows; every rank must call it.

    Args:
        state: the run.
        dataset: the held-out rows.
        name: of the measure in the metrics log.
        limit: number of rows; 0 takes all.

    Returns:
        Mean loss of every bucket with an answer token, by name; the same on all ranks.
    """
    world = state.world
    count = min(limit or len(dataset), len(dataset))
    own = range(world.data_rank, count, world.data_size)

    def batches() -> Iterator[Batch]:
        for row in own:
            yield make_batch(dataset[row], world)

    state.model.eval()
    reports = state.run_schedule(
        make_forward_step(_bucket_sums), batches(), len(own), forward_only=True
    )
    state.model.train()
    sums = global_sums(reports, 2 * BUCKETS, world).view(BUCKETS, 2)
    names = bucket_names(name, dataset.manifest.seq_length)
    pairs = zip(names, sums.tolist(), strict=True)
    return {name: total / tokens for name, (total, tokens) in pairs if tokens}


def _bucket_sums(batch: Batch, token_losses: torch.Tensor) -> torch.Tensor:
    """Sum losses and count answer tokens by bucket: float64 [BUCKETS x 2]."""
    samples = answer_sequences(batch)
    by_sample = torch.zeros(
        len(batch.row.lengths), 2, dtype=torch.float64, device=token_losses.device
    )
    if len(samples):
        losses = token_losses.double()
        by_sample.index_add_(0, samples, torch.stack([losses, torch.ones_like(losses)], dim=1))
    membership = torch.from_numpy(_membership(batch)).to(token_losses.device)
    return (membership.T @ by_sample).flatten()


def _membership(batch: Batch) -> npt.NDArray[np.float64]:
    """Return 1 where a sequence belongs to a bucket, else 0: float64 [sequences, BUCKETS]."""
    records = batch.row.records
    membership = np.zeros((len(records), BUCKETS))
    membership[:, 0] = 1
    known = np.flatnonzero(~np.isnan(records["evidence_position"]))
    positions = records["evidence_position"][known] * POSITION_BINS
    membership[known, 1 + np.minimum(positions.astype(np.int64), POSITION_BINS - 1)] = 1
    lengths = records["length"].astype(np.int64) * LENGTH_BINS // len(batch.row.tokens)
    every = np.arange(len(records))
    membership[every, 1 + POSITION_BINS + np.minimum(lengths, LENGTH_BINS - 1)] = 1
    return membership
