"""A row becomes a batch: literal tokens, labels, masks and positions, at both ends of samples."""

from dataclasses import replace

import numpy as np
import torch

from megatron_in2.data.packed.dataset import Row
from megatron_in2.data.packed.manifest import SAMPLE_RECORD
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.step.batch import make_batch

# Two samples of true lengths 5 and 3, padded to 6 and 4, and 2 of padding at the end; 0 is padding.
TOKENS = [1, 11, 12, 13, 2, 0, 1, 21, 2, 0, 0, 0]
TARGETS = [0, 0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0]  # target-aligned: answers 13 </s>, and 21 </s>
LENGTHS = [6, 4, 2]


def _row(targets: list[int]) -> Row:
    return Row(
        index=0,
        tokens=np.array(TOKENS, np.int64),
        loss_mask=np.array(targets, np.uint8),
        lengths=LENGTHS,
        records=np.zeros(3, SAMPLE_RECORD),
    )


def test_literal_batch() -> None:
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        batch = make_batch(_row(TARGETS), world)
    assert batch.tokens.tolist() == [TOKENS]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 0, 1]]
    assert batch.loss_mask.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0]]
    targets = batch.labels[batch.loss_mask.bool()]
    assert targets.tolist() == [13, 2, 21, 2]
    assert batch.packing.cu_seqlens_q.tolist() == [0, 6, 10, 12]
    assert batch.tokens.dtype == batch.labels.dtype == torch.int64


def test_a_samples_last_token_predicts_nothing() -> None:
    """Also where the next sample's first token is marked in the stored mask."""
    marked_start = [*TARGETS[:6], 1, *TARGETS[7:]]
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        batch = make_batch(_row(marked_start), world)
    assert batch.loss_mask[0, 5] == 0
    assert batch.loss_mask.sum() == 4


def test_the_head_runs_at_answers_padded_to_the_tensor_ranks() -> None:
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        alone = make_batch(_row(TARGETS), world)
        of_three = make_batch(_row(TARGETS), replace(world, tensor_size=3))
        without_answers = make_batch(_row([0] * 12), replace(world, tensor_size=3))
    assert alone.packing.head_positions.tolist() == [2, 3, 6, 7]
    assert of_three.packing.head_positions.tolist() == [2, 3, 6, 7, 0, 0]
    assert without_answers.packing.head_positions.tolist() == [0, 0, 0]
