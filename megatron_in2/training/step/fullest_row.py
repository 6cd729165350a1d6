"""The row that needs most memory, for the rehearsal and for traces."""

from collections.abc import Sequence

import numpy as np

from megatron_in2.data.packed.dataset import PackedDataset, Row
from megatron_in2.data.packed.manifest import SAMPLE_RECORD
from megatron_in2.errors import InputError


def fullest_row(
    seq_length: int, trained_tokens: int, samples: int = 1, sample_multiple: int = 1
) -> Row:
    """Return a row of zeros whose last ``trained_tokens`` tokens are trained on.

    Args:
        seq_length: tokens of the row.
        trained_tokens: how many of them are trained on.
        samples: in the row, of about equal length.
        sample_multiple: every sample's length is a multiple of this.

    Raises:
        InputError: the row is too short for so many samples.
    """
    pieces = seq_length // sample_multiple
    if not 1 <= samples <= pieces:
        raise InputError(
            f"a row of {seq_length:,} tokens cannot have {samples:,} samples of {sample_multiple} "
            f"tokens or more: take 1 to {pieces:,}"
        )
    borders = np.arange(samples + 1) * pieces // samples * sample_multiple
    lengths = np.diff(borders)
    mask = np.zeros(seq_length, np.uint8)
    mask[seq_length - trained_tokens :] = 1
    records = np.zeros(samples, SAMPLE_RECORD)
    records["length"] = lengths
    return Row(
        index=-1,
        tokens=np.zeros(seq_length, np.int64),
        loss_mask=mask,
        lengths=lengths.tolist(),
        records=records,
    )


def most_trained_tokens(datasets: Sequence[PackedDataset]) -> int:
    """Return the largest number of trained tokens in a row; reads one number for each row."""
    return max(int(dataset.rows["learnt_tokens"].max()) for dataset in datasets)
