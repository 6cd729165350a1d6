"""What one optimizer step reports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetrics:
    """What one optimizer step did, the same on every rank.

    ``loss`` is the global batch's, normalised as configured; ``tokens`` counts the rows' tokens,
    padding included, and ``samples`` the samples in them; ``flops`` are those the loss needs,
    causal and document-aware, LM head and last outputs at answer positions, and ``dense_flops``
    what Megatron-LM counts for the same rows; ``imbalance`` is largest over mean work of the
    data-parallel ranks, less 1; ``seconds`` is wall time. A step is ``skipped`` where its loss or
    gradient was not finite: the weights stay as they were.
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
    def learnt_fraction(self) -> float:
        """Share of the rows' tokens that carried loss; a broken mask shows here at once."""
        return self.answer_tokens / self.tokens
