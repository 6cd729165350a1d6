"""The forms of the quickstart's small model."""

from pathlib import Path
from typing import get_args

import pytest

from megatron_in2.architectures.registry import ARCHITECTURES, architecture_of
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.errors import InputError
from megatron_in2.quickstart.config import Base, QuickstartConfig
from megatron_in2.quickstart.places import Places
from megatron_in2.quickstart.run import CONFIGS
from megatron_in2.training.config import TrainConfig

BASES = get_args(Base)


def model_config(base: str) -> TrainConfig:
    """What the quickstart trains."""
    shape = QuickstartConfig(base).shape  # type: ignore[arg-type]
    files = ["--config", str(CONFIGS / "train.yaml"), "--config", str(shape)]
    return config_of(CommandParser(None, TrainConfig).read(files), TrainConfig)


@pytest.mark.parametrize("base", BASES)
def test_every_base_is_trained_on_two_processes(base: str) -> None:
    config = model_config(base)
    config.validate(2)
    assert config.parallel.tensor == 2
    assert (config.model.num_layers, config.data.seq_length) == (4, 2048)
    scaling = config.model.rope_scaling
    assert scaling.type == "default" or scaling.original_positions * 8 == config.data.seq_length


def test_the_bases_cover_every_family_and_each_of_its_additions() -> None:
    models = {base: model_config(base).model for base in BASES}
    assert {model.architecture for model in models.values()} == set(ARCHITECTURES)
    assert len({repr(model) for model in models.values()}) == len(BASES)
    assert models["nemo"].head_dim > models["nemo"].hidden_size // 6
    assert models["llama3.2"].tie_word_embeddings
    assert models["llama3"].rope_scaling.type == "llama3"
    assert architecture_of(models["qwen2.5"]).transformer_options(models["qwen2.5"])["add_qkv_bias"]
    assert architecture_of(models["qwen3"]).transformer_options(models["qwen3"])["qk_layernorm"]


def test_bases_write_to_folders_of_their_own() -> None:
    homes = {QuickstartConfig(base).home for base in BASES}
    assert len(homes) == len(BASES)
    assert Places.below(QuickstartConfig().home).export == Path("runs/quickstart/huggingface")


def test_another_base_is_refused_with_the_choices() -> None:
    with pytest.raises(InputError, match="--base gemma: use mistral, nemo, llama3"):
        QuickstartConfig("gemma")  # type: ignore[arg-type]
