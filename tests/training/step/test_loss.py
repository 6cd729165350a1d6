"""Normalisation by token and by sample, on literal losses; validation's sums by bucket."""

import numpy as np
import pytest
import torch

from megatron_in2.data.packed.dataset import Row
from megatron_in2.data.packed.manifest import SAMPLE_RECORD
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from megatron_in2.training.step.batch import Batch, make_batch
from megatron_in2.training.step.held_out_loss import BUCKETS, _bucket_sums, bucket_names
from megatron_in2.training.step.loss import step_report, weighted_sum

LOSSES = torch.tensor([1.0, 2.0, 3.0, 10.0])  # three answer tokens in the first sample, one later


def _batch(normalisation: str) -> Batch:
    """Two samples, of 6 tokens (3 answers, evidence at 0.3) and 4 (1 answer), and padding."""
    records = np.zeros(3, SAMPLE_RECORD)
    records["length"] = [6, 4, 0]
    records["evidence_position"] = [0.3, np.nan, np.nan]
    targets = [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 0, 0]
    row = Row(0, np.arange(12), np.array(targets, np.uint8), [6, 4, 2], records)
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        return make_batch(row, world, normalisation)


@pytest.mark.parametrize(
    ("normalisation", "total", "normaliser"), [("token", 16.0, 4), ("sample", 2.0 + 10.0, 2)]
)
def test_literal_sums(normalisation: str, total: float, normaliser: int) -> None:
    batch = _batch(normalisation)
    assert weighted_sum(batch, LOSSES).item() == pytest.approx(total)
    assert step_report(batch, LOSSES).tolist() == pytest.approx([total, normaliser, 4])


def test_validation_buckets() -> None:
    sums = _bucket_sums(_batch("token"), LOSSES).view(BUCKETS, 2)
    found = {
        name: pair
        for name, pair in zip(bucket_names("validation_loss", 12), sums.tolist(), strict=True)
        if any(pair)
    }
    assert found == {
        "validation_loss": [16.0, 4.0],
        "validation_loss/position_25-38%": [6.0, 3.0],
        "validation_loss/length_6-9": [6.0, 3.0],
        "validation_loss/length_3-6": [10.0, 1.0],
    }
