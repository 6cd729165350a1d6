"""Every wrong field is refused by name; the shipped configurations are valid."""

import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from megatron_in2.architectures.config import POSITION_FIELDS, ModelConfig
from megatron_in2.commands.parser import CommandParser, config_of
from megatron_in2.errors import InputError
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.training.arithmetic.estimate import describe_run
from megatron_in2.training.arithmetic.memory import GIB, checkpoint_bytes, memory_per_rank
from megatron_in2.training.config import (
    CheckpointConfig,
    DataConfig,
    LoggingConfig,
    OptimizerConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
    parse_range,
)
from tests.architectures.published import PUBLISHED, read
from tests.conftest import ROOT
from tests.training.test_inherited import write_step


def _load(path: Path, *options: str) -> TrainConfig:
    namespace = CommandParser(None, TrainConfig).read(["--config", str(path), *options])
    return config_of(namespace, TrainConfig)


@pytest.mark.parametrize(
    ("change", "world", "words"),
    [
        ({}, 3, "world size 3 does not fit"),
        ({"parallel": ParallelConfig(tensor=0)}, 1, "parallel.tensor=0"),
        ({"parallel": ParallelConfig(sequence=True)}, 2, "parallel.sequence=true needs"),
        ({"data": DataConfig(seq_length=100)}, 8, "data.seq_length=100 is not divisible by 8"),
        ({"data": DataConfig(seq_length=65536)}, 8, "exceeds model.max_position_embeddings"),
        ({"schedule": ScheduleConfig(global_batch_rows=3)}, 8, "schedule.global_batch_rows=3"),
        ({"schedule": ScheduleConfig(warmup_fraction=1.0)}, 8, "schedule.warmup_fraction=1.0"),
        ({"schedule": ScheduleConfig(epochs=0)}, 8, "schedule.epochs=0"),
        ({"runtime": RuntimeConfig(dtype="int8")}, 8, "runtime.dtype='int8'"),
        (
            {"runtime": RuntimeConfig(fp8="e5m2")},
            8,
            "runtime.fp8='e5m2': use hybrid, e4m3 or leave it empty",
        ),
        ({"runtime": RuntimeConfig(fp8="hybrid", dtype="float32")}, 8, "runtime.dtype=bfloat16"),
        (
            {"runtime": RuntimeConfig(fp8="hybrid", backend="torch")},
            8,
            "needs runtime.backend=transformer_engine",
        ),
        (
            {"runtime": RuntimeConfig(fp8="hybrid"), "data": DataConfig(seq_length=32)},
            8,
            "data.seq_length=32 over 4 ranks is no multiple of 16",
        ),
        (
            {
                "optimizer": OptimizerConfig(cpu_offload=True),
                "runtime": RuntimeConfig(dtype="float32"),
            },
            8,
            "optimizer.cpu_offload=true needs runtime.dtype=bfloat16",
        ),
        ({"optimizer": OptimizerConfig(lr=0.0)}, 8, "optimizer.lr=0.0"),
        ({"optimizer": OptimizerConfig(lr=1e-6, min_lr=1e-5)}, 8, "min_lr=1e-05"),
        ({"checkpoint": CheckpointConfig(interval_steps=0)}, 8, "checkpoint.interval_steps=0"),
        (
            {"runtime": RuntimeConfig(rehearsal="on")},
            8,
            "runtime.rehearsal='on': use auto, always or",
        ),
        ({"model": ModelConfig(rope_theta=-3.0)}, 8, "model.rope_theta=-3.0: must be above 0"),
        ({"optimizer": OptimizerConfig(beta2=1.5)}, 8, "optimizer.beta2=1.5: must be from 0 to"),
        ({"optimizer": OptimizerConfig(eps=0.0)}, 8, "optimizer.eps=0.0: must be above 0"),
        ({"optimizer": OptimizerConfig(clip_grad=-1.0)}, 8, "optimizer.clip_grad=-1.0: must be 0"),
        ({"optimizer": OptimizerConfig(weight_decay=math.nan)}, 8, "optimizer.weight_decay=nan"),
        ({"optimizer": OptimizerConfig(lr=math.inf)}, 8, "optimizer.lr=inf"),
        ({"runtime": RuntimeConfig(init_std=0.0)}, 8, "runtime.init_std=0.0"),
        ({"runtime": RuntimeConfig(hang_timeout=-1.0)}, 8, "runtime.hang_timeout=-1.0"),
        ({"logging": LoggingConfig(straggler_threshold=0.0)}, 8, "straggler_threshold=0.0"),
        ({"logging": LoggingConfig(profile_steps="5+")}, 8, "profile_steps=5+: write a number"),
        ({"logging": LoggingConfig(profile_steps="12-10")}, 8, "write 10-12"),
        ({"logging": LoggingConfig(profile_steps="0-2")}, 8, "steps begin at 1"),
        (
            {"logging": LoggingConfig(profile_steps="3", profile_ranks="7-8")},
            8,
            "logging.profile_ranks=7-8: world size 8 has ranks 0 to 7",
        ),
    ],
)
def test_wrong_fields_are_named(change: dict, world: int, words: str) -> None:
    config = TrainConfig(parallel=ParallelConfig(tensor=2, context=2, sequence=True))
    with pytest.raises(InputError) as refused:
        replace(config, **change).validate(world)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    ("value", "numbers"), [(10, [10]), ("10-12", [10, 11, 12]), ("7-7", [7]), ("0", [0])]
)
def test_numbers_are_one_or_a_run_of_them(value: int | str, numbers: list[int]) -> None:
    assert list(parse_range("logging.profile_steps", value)) == numbers


@pytest.mark.parametrize("content", ["model: {layers: 3}", "model: {num_layers: many}", "model: ["])
def test_unreadable_configs_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "c.yaml").write_text(content)
    with pytest.raises(InputError):
        _load(tmp_path / "c.yaml")


def test_an_option_wins_over_the_file() -> None:
    config = _load(ROOT / "configs" / "tiny.yaml", "--optimizer.lr=0.5")
    assert config.optimizer.lr == 0.5
    assert config.model.hidden_size == 64


def test_film7b_is_the_7b_on_128_gpus() -> None:
    config = _load(ROOT / "configs" / "film7b.yaml")
    text = describe_run(config, 128)
    assert "7,241,732,096" in text
    assert "TP2 x PP1 x CP2 x DP32" in text
    assert "2 micro-batches" in text
    assert memory_per_rank(config, 128).total < 72 * GIB  # fits 80 GB with a margin
    assert checkpoint_bytes(config) == pytest.approx(101e9, rel=0.01)


def test_an_offloaded_optimizer_moves_to_the_host() -> None:
    config = _load(ROOT / "configs" / "film7b_8gpu.yaml")
    offloaded = replace(config, optimizer=replace(config.optimizer, cpu_offload=True))
    here, there = memory_per_rank(config, 8), memory_per_rank(offloaded, 8)
    assert here.optimizer == pytest.approx(12 * 7_241_732_096 / 8, rel=1e-9)
    assert (here.host, there.optimizer) == (0, 0)
    assert there.host == pytest.approx(16 * 7_241_732_096 / 8, rel=1e-9)  # and gradients
    assert here.total - there.total == pytest.approx(here.optimizer)
    assert "; host memory 13.49" in describe_run(offloaded, 8)
    assert "host" not in describe_run(config, 8).splitlines()[-3]


BASES = {
    "llama3.1-8b": "Llama-3.1-8B",
    "qwen2.5-7b": "Qwen2.5-7B",
    "qwen3-8b": "Qwen3-8B",
    "mistral-7b-v0.3": "Mistral-7B-Instruct-v0.3",
    "mistral-nemo-12b": "Mistral-Nemo-12B",
}
OWN = ("tiny", "film7b", "film7b_8gpu", "film7b_rope1e7")
SHIPPED = (
    *(f"configs/{name}.yaml" for name in (*OWN, *BASES)),
    "megatron_in2/quickstart/train.yaml",
)


@pytest.mark.parametrize("path", SHIPPED)
def test_shipped_configs_are_valid(path: str) -> None:
    config = _load(ROOT / path)
    config.validate(config.parallel.model_ranks)


@pytest.mark.parametrize("name", BASES)
def test_configs_of_bases_have_the_published_sizes_and_fit(name: str, tmp_path: Path) -> None:
    path = ROOT / "configs" / f"{name}.yaml"
    published = read(PUBLISHED[BASES[name]])
    config = _load(path)
    for field, value in asdict(published).items():
        if field not in POSITION_FIELDS:
            assert getattr(config.model, field) == value, field
    assert "TP4 x PP1 x CP1 x DP32" in describe_run(config, 128)
    assert memory_per_rank(config, 128).total < 60 * GIB
    step = write_step(tmp_path / "base", 0, published)
    assert _load(path, f"--checkpoint.init_from={step}").model == published
