"""Floating-point operations of the architecture, forward and backward: the one place of formulas.

6 per matrix parameter and token (2 forward, 4 backward). Attention takes 4 x heads x head_dim per
query and visible key in the forward pass (scores and values) and twice that in the backward pass.
"""

import numpy as np
import numpy.typing as npt

from megatron_in2.model.config import ModelConfig

Flops = npt.NDArray[np.float64]


def body_flops_per_token(model: ModelConfig) -> float:
    """All matrices but the embedding (a look-up) and the LM head (it runs where it is asked to)."""
    copies = 1 if model.tie_word_embeddings else 2
    embeddings = copies * model.vocab_size * model.hidden_size
    return 6.0 * (model.parameter_count - embeddings)


def head_flops_per_token(model: ModelConfig) -> float:
    """The LM head at one position."""
    return 6.0 * model.vocab_size * model.hidden_size


def attention_flops(model: ModelConfig, squared_lengths: npt.NDArray[np.int64]) -> Flops:
    """Causal attention of rows: half of each sample's keys are visible on average.

    Args:
        model: the architecture.
        squared_lengths: int64 [rows], sum of the squared lengths of each row's samples.
    """
    width = model.num_attention_heads * model.head_dim
    return squared_lengths.astype(np.float64) * (12.0 * model.num_layers * width / 2.0)


def row_flops(model: ModelConfig, seq_length: int, squared_lengths: npt.NDArray[np.int64]) -> Flops:
    """Rows of ``seq_length`` tokens, LM head left out; arguments as in :func:`attention_flops`."""
    return seq_length * body_flops_per_token(model) + attention_flops(model, squared_lengths)


def dense_row_flops(model: ModelConfig, seq_length: int) -> float:
    """One row as Megatron-LM counts it: every query sees the whole row, a logit at every token."""
    width = model.num_attention_heads * model.head_dim
    square = 12.0 * model.num_layers * width * seq_length
    return seq_length * (body_flops_per_token(model) + head_flops_per_token(model) + square)
