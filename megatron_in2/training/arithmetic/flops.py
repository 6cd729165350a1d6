"""Floating-point operations of a model, forward and backward.

6 per parameter and token (2 forward, 4 backward). Attention takes 4 x heads x head_dim per query
and visible key in the forward pass (scores and values) and twice that in the backward pass. The
terms come from the model's architecture.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from megatron_in2.architectures.base import FlopTerms
from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import architecture_of

Flops = npt.NDArray[np.float64]


def body_flops_per_token(model: ModelConfig) -> float:
    """Return the FLOPs of all layers, without the embedding (a look-up) and the LM head."""
    return 6.0 * _terms(model).body


def head_flops_per_token(model: ModelConfig) -> float:
    """Return the FLOPs of the LM head at one position."""
    return 6.0 * _terms(model).head


def attention_flops(model: ModelConfig, squared_lengths: npt.NDArray[np.int64]) -> Flops:
    """Return the FLOPs of causal attention: half of each sample's keys are visible on average.

    Args:
        model: family and sizes.
        squared_lengths: int64 [rows], sum of the squared lengths of each row's samples.
    """
    return squared_lengths.astype(np.float64) * (12.0 * _terms(model).attention_width / 2.0)


def row_flops(model: ModelConfig, seq_length: int, squared_lengths: npt.NDArray[np.int64]) -> Flops:
    """Return the FLOPs of rows without the LM head, float64 [rows]; see :func:`attention_flops`."""
    return seq_length * body_flops_per_token(model) + attention_flops(model, squared_lengths)


def loss_flops(
    model: ModelConfig,
    seq_length: int,
    squared_lengths: npt.NDArray[np.int64],
    answer_tokens: float,
) -> float:
    """Return the FLOPs that the loss at ``answer_tokens`` positions of rows needs.

    All layers count in full except the last one. Its output projection and feed-forward matrices,
    and the LM head, count at these positions only; the attention of these few queries in the last
    layer is left out. Other arguments as in :func:`attention_flops`.
    """
    terms = _terms(model)
    after_attention = 6.0 * terms.after_attention
    tokens = len(squared_lengths) * seq_length
    last_share = terms.last_attention_width / terms.attention_width
    last_attention = float(attention_flops(model, squared_lengths).sum()) * last_share
    everywhere = float(row_flops(model, seq_length, squared_lengths).sum())
    at_answers = answer_tokens * (after_attention + head_flops_per_token(model))
    return everywhere - last_attention - tokens * after_attention + at_answers


def dense_row_flops(model: ModelConfig, seq_length: int) -> float:
    """Return the FLOPs of a row as Megatron-LM counts them.

    The row is one causal sample, half of whose keys are visible on average, and every token has a
    logit (``num_floating_point_operations`` in its ``megatron/training/training.py``).
    """
    row = row_flops(model, seq_length, np.array([seq_length**2], dtype=np.int64))
    return float(row[0]) + seq_length * head_flops_per_token(model)


@lru_cache(maxsize=64)
def _terms(model: ModelConfig) -> FlopTerms:
    return architecture_of(model).flop_terms(model)
