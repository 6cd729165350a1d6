"""The record of one optimizer step."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetrics:
    """The record of one optimizer step, the same on every rank.

    Args:
        step: number of the step, from 1.
        consumed_rows: rows read since step 0, this step's included.
        loss: of the global batch, normalised as configured.
        learning_rate: of this step.
        grad_norm: before clipping.
        answer_tokens: tokens trained on.
        tokens: all tokens of the rows, padding included.
        samples: samples in the rows.
        flops: what the loss needs: attention causal inside each sample, LM head and the last
            layer's outputs at answer positions.
        dense_flops: what Megatron-LM counts for the same rows.
        imbalance: largest over mean work of the data-parallel ranks, minus 1.
        skipped: loss or gradient was not finite, and the weights were not updated.
        seconds: wall time.
    """

    step: int
    consumed_rows: int
    loss: float
    learning_rate: float
    grad_norm: float
    answer_tokens: int
    tokens: int
    samples: int
    flops: float
    dense_flops: float
    imbalance: float
    skipped: bool
    seconds: float

    @property
    def trained_fraction(self) -> float:
        """Share of the rows' tokens that were trained on; it shows a broken mask at once."""
        return self.answer_tokens / self.tokens
