"""A run takes its model, and the tokenizer, from the checkpoint that it starts from."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.rope import RopeScaling
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.errors import InputError
from megatron_in2.training.config import TrainConfig
from tests.conftest import ROOT

QWEN = ModelConfig(
    architecture="qwen2",
    num_layers=3,
    vocab_size=1009,
    norm_epsilon=1e-6,
    rope_scaling=RopeScaling("yarn", 4.0, 32768, attention_factor=1.25),
)


def write_step(folder: Path, number: int, model: ModelConfig, **sections: Any) -> Path:
    """Write what says that a step is complete, and what it holds; no tensors."""
    step = folder / f"iter_{number:07d}"
    step.mkdir(parents=True)
    (step / "config.yaml").write_text(yaml.safe_dump({"model": asdict(model), **sections}))
    (step / "complete.json").write_text("{}")
    (step / "tokenizer.model").write_text("")
    return step


def read(*options: str, config: Path = ROOT / "configs" / "film7b.yaml") -> TrainConfig:
    namespace = CommandParser(None, TrainConfig).read(["--config", str(config), *options])
    return config_of(namespace, TrainConfig)


def test_model_and_tokenizer_come_from_the_checkpoint(tmp_path: Path) -> None:
    step = write_step(tmp_path / "base", 0, QWEN)
    for start in (step, step.parent):
        config = read(f"--checkpoint.init_from={start}")
        assert config.model == QWEN
        assert config.data.tokenizer_model == str(step / "tokenizer.model")
        assert config.parallel.tensor == 2  # the rest is the file's


def test_without_a_checkpoint_the_model_is_film7bs() -> None:
    assert read().model == ModelConfig()
    assert read().data.tokenizer_model == "mistral-v1"


def test_what_is_given_wins(tmp_path: Path) -> None:
    step = write_step(tmp_path / "base", 0, QWEN)
    given = tmp_path / "given.yaml"
    given.write_text("model: {rope_theta: 5.0e+6}\ndata: {tokenizer_model: mine}\n")
    options = [f"--checkpoint.init_from={step}", "--model.rope_scaling.factor=8"]
    config = read(*options, config=given)
    scaling = replace(QWEN.rope_scaling, factor=8.0)
    assert config.model == replace(QWEN, rope_theta=5e6, rope_scaling=scaling)
    assert config.data.tokenizer_model == "mine"


def test_a_run_that_resumes_keeps_what_it_began_with(tmp_path: Path) -> None:
    """Its tokenizer is the one it named: the steps of its own folder come and go."""
    base = write_step(tmp_path / "base", 0, QWEN)
    own = replace(QWEN, rope_theta=7e6)
    write_step(tmp_path / "run", 10, own, data={"tokenizer_model": "where/it/was"})
    config = read(f"--checkpoint.init_from={base}", f"--checkpoint.dir={tmp_path / 'run'}")
    assert config.model == own
    assert config.data.tokenizer_model == "where/it/was"


def test_a_start_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere holds no complete checkpoint"):
        read(f"--checkpoint.init_from={tmp_path / 'nowhere'}")
