"""Tiny random models in Hugging Face's own form."""

import shutil
from collections.abc import Callable
from pathlib import Path

import mistral_common
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from megatron_in2.tokenizers.base import Tokenizer

# The 32,768-piece model of Mistral-7B-Instruct-v0.3.
V3 = Path(mistral_common.__file__).parent / "data" / "mistral_instruct_tokenizer_240323.model.v3"
MakeModel = Callable[..., Path]


@pytest.fixture(scope="session")
def make_model(small_tokenizer: Tokenizer) -> MakeModel:
    """Return a function that saves a random Mistral, with the small tokenizer, to a folder.

    Weights are ten times larger than a fresh model's, so that attention and logits are far from
    uniform and a misplaced row shows.
    """

    def make(
        folder: Path,
        heads: int = 4,
        groups: int = 2,
        tied: bool = False,
        dtype: torch.dtype = torch.bfloat16,
        shard_size: str = "5GB",
        vocab_size: int = small_tokenizer.vocab_size,
        layers: int = 2,
        positions: int = 512,
    ) -> Path:
        torch.manual_seed(heads * 100 + groups)
        config = MistralConfig(
            num_hidden_layers=layers,
            hidden_size=64,
            num_attention_heads=heads,
            num_key_value_heads=groups,
            head_dim=16,
            intermediate_size=96,
            vocab_size=vocab_size,
            max_position_embeddings=positions,
            rope_theta=1e6,
            sliding_window=None,
            rms_norm_eps=1e-5,
            initializer_range=0.2,
            tie_word_embeddings=tied,
        )
        model = MistralForCausalLM(config)
        for name, parameter in model.named_parameters():
            if "norm" in name:  # fresh norms are all one: a swap of two would not show
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
        model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
        shutil.copyfile(small_tokenizer.path, folder / "tokenizer.model")
        return folder

    return make


@pytest.fixture(scope="session")
def model_folder(make_model: MakeModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny model in one file, read only."""
    return make_model(tmp_path_factory.mktemp("model") / "hf")
