"""Sizes are checked and named; the 7B is the 7B."""

from dataclasses import replace

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import parameter_count
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig


def test_the_default_is_mistral_7b_instruct_v02() -> None:
    assert parameter_count(ModelConfig()) == 7_241_732_096


def test_the_vocabulary_is_padded_only_to_divisibility() -> None:
    assert ModelConfig().padded_vocab_size(8) == 32000
    assert ModelConfig(vocab_size=32003).padded_vocab_size(2) == 32004


@pytest.mark.parametrize(
    ("change", "parallel", "words"),
    [
        ({"hidden_size": 0}, {}, "model.hidden_size=0"),
        ({"head_dim": 7}, {}, "model.head_dim=7"),
        ({"num_query_groups": 3}, {}, "not divisible by model.num_query_groups=3"),
        ({"num_query_groups": 2}, {"tensor": 4}, "model.num_query_groups=2"),
        ({"ffn_hidden_size": 9}, {"tensor": 2}, "model.ffn_hidden_size=9"),
        ({"num_layers": 3}, {"pipeline": 2}, "model.num_layers=3"),
    ],
)
def test_impossible_sizes_are_named(change: dict, parallel: dict, words: str) -> None:
    with pytest.raises(InputError, match=words.replace(".", r"\.")):
        replace(ModelConfig(), **change).validate(ParallelConfig(**parallel))
