"""What is traced: the row's shape, and the backend. Building either would import torch."""

from dataclasses import dataclass

from megatron_in2.data.packed.blend import parse_blend
from megatron_in2.training.config import Backend, TrainConfig

TRAINED_TOKENS = 512  # of a row, where no data set is named; a packed row has a few short answers


@dataclass(frozen=True)
class TracedRow:
    """A row as :func:`fullest_row` makes it.

    Args:
        length: tokens.
        trained: tokens that are trained on, the last ones.
        samples: of about equal length.
    """

    length: int
    trained: int
    samples: int


def traced_row(config: TrainConfig, samples: int = 1) -> TracedRow:
    """Return the row that is traced: as full as the fullest of ``data.train``, if that is set."""
    trained = TRAINED_TOKENS
    if config.data.train:
        # Imported here, because the packed format's reader imports torch.
        from megatron_in2.data.packed.dataset import PackedDataset
        from megatron_in2.training.step.fullest_row import most_trained_tokens

        prefixes = [prefix for _, prefix in parse_blend(config.data.train)]
        trained = most_trained_tokens([PackedDataset(prefix) for prefix in prefixes])
    length = config.data.seq_length
    return TracedRow(length, min(trained, length), samples)


def traced_backend(config: TrainConfig) -> Backend:
    """Return the backend that is traced: ``torch`` where the configuration leaves it open."""
    return "torch" if config.runtime.backend == "auto" else config.runtime.backend
