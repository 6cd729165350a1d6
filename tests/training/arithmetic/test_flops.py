"""The formulas against the published figures and against counting by hand."""

import numpy as np
import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.training.arithmetic.flops import (
    attention_flops,
    body_flops_per_token,
    dense_row_flops,
    head_flops_per_token,
    loss_flops,
    row_flops,
)


def test_mistral_7b_at_32k_needs_about_68_gflop_a_token() -> None:
    row = row_flops(ModelConfig(), 32768, np.array([32768**2]))[0]
    assert row / 32768 == pytest.approx(68e9, rel=0.03)


def test_counted_by_hand() -> None:
    model = ModelConfig(
        num_layers=1,
        hidden_size=4,
        num_attention_heads=2,
        num_query_groups=1,
        head_dim=2,
        ffn_hidden_size=8,
        vocab_size=10,
    )
    # q and o: 4 x 4 each, k and v: 4 x 2 each, feed-forward: 3 x 4 x 8, norms: 3 x 4.
    assert body_flops_per_token(model) == 6 * (16 + 16 + 8 + 8 + 96 + 12)
    # Samples of 3 and 2 tokens: scores and values, forward once and backward twice, half causal.
    expected = 3 * (2 + 2) * 4 * (9 + 4) / 2
    assert attention_flops(model, np.array([9 + 4])).tolist() == [expected]
    # One answer token: before it norms, q, k and v of every token; the only layer is the last one.
    before, behind = 12 + 16 + 8 + 8, 16 + 96
    needed = 5 * 6 * before + 6 * (behind + 10 * 4)
    assert loss_flops(model, 5, np.array([9 + 4]), answer_tokens=1) == needed
    # Megatron-LM's count: 5 queries see half of 5 keys, and 5 positions reach the LM head.
    dense = 5 * body_flops_per_token(model) + 3 * (2 + 2) * 4 * 25 / 2 + 5 * 6 * 10 * 4
    assert dense_row_flops(model, 5) == dense


def test_answers_only_save_the_7b_four_percent() -> None:
    model, squares = ModelConfig(), np.array([32768**2])
    everywhere = row_flops(model, 32768, squares)[0] + 32768 * head_flops_per_token(model)
    sparse = loss_flops(model, 32768, squares, 0.02 * 32768)
    assert 1 - sparse / everywhere == pytest.approx(0.04, abs=0.002)
