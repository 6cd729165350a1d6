"""Influence of a token on the last one, against a model whose derivative is known."""

from types import SimpleNamespace

import numpy as np
import torch

from megatron_in2.lab.scores import parts_of
from megatron_in2.lab.seed.influence import squared_norms

VOCABULARY, WIDTH, TOKENS = 11, 6, 64


class _Weighted:
    """A model whose last hidden state is a weighted sum of the embeddings: J_t = w_t * I."""

    def __init__(self, weights: torch.Tensor) -> None:
        self._weights = weights
        self._embeddings = torch.nn.Embedding(VOCABULARY, WIDTH)

    def get_input_embeddings(self) -> torch.nn.Embedding:
        return self._embeddings

    def model(self, inputs_embeds: torch.Tensor) -> SimpleNamespace:
        sums = (self._weights[None, :, None] * inputs_embeds).cumsum(dim=1)
        return SimpleNamespace(last_hidden_state=sums)


def test_the_influence_is_that_of_the_derivative() -> None:
    weights = torch.linspace(3.0, 0.5, TOKENS)
    prompt = [index % VOCABULARY for index in range(TOKENS)]
    curve = squared_norms(_Weighted(weights), prompt, torch.Generator().manual_seed(1))
    wanted = weights.double().square().numpy()
    np.testing.assert_allclose(curve / curve[0], wanted / wanted[0], rtol=1e-5)
    assert not np.allclose(curve / curve[0], 1.0)


def test_the_size_is_that_of_the_whole_derivative() -> None:
    chance = torch.Generator().manual_seed(2)
    ones = _Weighted(torch.ones(TOKENS))
    sizes = [squared_norms(ones, [0] * TOKENS, chance)[0] for _ in range(200)]
    assert abs(np.mean(sizes) / WIDTH - 1) < 0.1  # |I|^2 is the width


def test_the_parts_of_a_context() -> None:
    curve = np.ones(TOKENS)
    curve[:4], curve[-4:-1], curve[-1] = 2.0, 3.0, 9.0
    assert parts_of(curve) == (2.0, 1.0, 3.0, 9.0)
