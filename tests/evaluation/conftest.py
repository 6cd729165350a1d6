"""Small models and real probes that the evaluation tests share."""

import shutil
from pathlib import Path

import pytest
import torch

from megatron_in2.tokenizer import Tokenizer

LONGEST = 2048  # tokens that the tiny model can take


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """A Mistral of random weights in Hugging Face format, its tokenizer beside it."""
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=small_tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=LONGEST,
        sliding_window=None,
    )
    folder = tmp_path_factory.mktemp("model")
    MistralForCausalLM(config).save_pretrained(folder)
    shutil.copyfile(small_tokenizer.path, folder / "tokenizer.model")
    return folder
