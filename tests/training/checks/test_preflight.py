"""A run that cannot work is refused before any rank starts: one line, exit code 2."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.errors import InputError
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.training.checks.preflight import check_run
from megatron_in2.training.config import (
    CheckpointConfig,
    DataConfig,
    RuntimeConfig,
    TrainConfig,
)
from tests.conftest import RunTool, assert_refused

Refuse = Callable[..., None]


@pytest.fixture
def refuse(tmp_path: Path, run_tool: RunTool, write_config: Callable[[Path], Path]) -> Refuse:
    """Run the command with options and two ranks, and check the refusal."""

    def check(options: list[str], *words: str, nproc: int = 2) -> None:
        folder = tmp_path / "run"
        result = run_tool("train", "--config", write_config(folder), "--nproc", nproc, *options)
        assert_refused(result, *words)
        assert not folder.exists()

    return check


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parallel.tensor=3"], ["world size 2 does not fit"]),
        (["--parallel.sequence=true"], ["parallel.sequence=true needs"]),
        (["--data.seq_length=500"], ["rows of 512 tokens", "data.seq_length=512"]),
        (["--data.train=absent"], ["no packed dataset at absent"]),
        (["--data.train="], ["data.train is empty"]),
        (["--data.tokenizer_model=mistral-v1"], ["made with another tokenizer"]),
        (["--model.vocab_size=1000"], ["model.vocab_size=1003"]),
        (["--model.layers=2"], ["model"]),
        (["--optimizer.lr=fast"], ["optimizer.lr"]),
        (["--checkpoint.init_from=absent"], ["absent", "no complete checkpoint"]),
        (["--schedule.global_batch_rows=3"], ["schedule.global_batch_rows=3"]),
        (["--logging.profile_steps=5-7"], ["logging.profile_steps=5-7", "ends with step 6"]),
        (["--logging.profile_steps=last"], ["logging.profile_steps=last", "10-12"]),
        (["--no-such-option"], ["no-such-option"]),
    ],
)
def test_bad_runs_are_refused(options: list[str], words: list[str], refuse: Refuse) -> None:
    refuse(options, *words)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU refuses")
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["--runtime.dtype=bfloat16", "--runtime.fp8=hybrid"],
            ["runtime.fp8=hybrid", "transformer-engine", "leave runtime.fp8 empty"],
        ),
        pytest.param(
            ["--runtime.backend=transformer_engine"],
            ["needs a GPU", "runtime.backend=torch"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_only_a_gpu_has_is_refused_once_for_all_ranks(
    options: list[str], words: list[str], refuse: Refuse
) -> None:
    refuse(options, *words)


def test_a_missing_config_is_named(run_tool: RunTool) -> None:
    assert_refused(run_tool("train", "--config", "absent.yaml"), "absent.yaml")


def test_a_truncated_dataset_is_refused(dataset: Path, tmp_path: Path, refuse: Refuse) -> None:
    for file in dataset.parent.glob("in2*"):
        shutil.copy(file, tmp_path / file.name)
    with open(tmp_path / "in2.bin", "r+b") as stream:
        stream.truncate(1000)
    refuse([f"--data.train={tmp_path / 'in2'}"], "in2.bin has 1000 bytes", "preprocess again")
    (tmp_path / "in2.bin").unlink()
    refuse([f"--data.train={tmp_path / 'in2'}"], "in2.bin is missing")


def test_a_dataset_without_rows_is_refused(
    dataset: Path, small_tokenizer: Tokenizer, tmp_path: Path, refuse: Refuse
) -> None:
    samples = dataset.with_name("samples.jsonl")
    shard = {"shard": 999, "num_shards": 1000}
    packing = PreprocessConfig([samples], tmp_path / "in2", str(small_tokenizer.path), 512, **shard)
    preprocess(packing)
    refuse([f"--data.train={tmp_path / 'in2'}"], "data.train", "holds no rows")


def test_context_parallelism_needs_padded_samples(
    dataset: Path, small_tokenizer: Tokenizer, tmp_path: Path, refuse: Refuse
) -> None:
    packing = PreprocessConfig(
        input=[dataset.with_name("samples.jsonl")],
        output_prefix=tmp_path / "in2",
        tokenizer_model=str(small_tokenizer.path),
        seq_length=512,
        pad_multiple=2,
    )
    preprocess(packing)
    options = [f"--data.train={tmp_path / 'in2'}", "--parallel.context=2"]
    refuse(options, "multiples of 2", "--pad-multiple 4")


def test_a_blend_of_two_templates_is_refused(
    dataset: Path, small_tokenizer: Tokenizer, base_config: dict, tmp_path: Path
) -> None:
    packing = PreprocessConfig(
        input=[dataset.with_name("samples.jsonl")],
        output_prefix=tmp_path / "other",
        tokenizer_model=str(small_tokenizer.path),
        seq_length=512,
        template="chatml",
    )
    preprocess(packing)
    config = read_config(base_config, tmp_path, f"0.7 {dataset} 0.3 {dataset}")
    inputs = check_run(config, world_size=1)
    assert [(part.weight, part.prefix) for part in inputs.datasets] == [
        (0.7, dataset),
        (0.3, dataset),
    ]
    config = read_config(base_config, tmp_path, f"0.7 {dataset} 0.3 {tmp_path / 'other'}")
    with pytest.raises(InputError, match=r"in2 was made with template film, .*other with .*chatml"):
        check_run(config, world_size=1)


def read_config(base_config: dict, folder: Path, train: str) -> TrainConfig:
    sections = {
        "model": ModelConfig(**base_config["model"]),
        "data": DataConfig(**{**base_config["data"], "train": train}),
        "checkpoint": CheckpointConfig(dir=str(folder / "run")),
    }
    return TrainConfig(**sections, runtime=RuntimeConfig(dtype="float32"))


def test_a_disk_too_small_for_the_checkpoints_is_refused(refuse: Refuse) -> None:
    refuse(["--checkpoint.keep_last=1000000000"], "checkpoints of", "checkpoint.keep_last")


def test_held_out_rows_must_reach_every_rank(refuse: Refuse) -> None:
    refuse(["--logging.validation_rows=1"], "gives 1 rows to 2 data-parallel ranks")


def test_resuming_with_changes_is_refused(
    reference: tuple[Path, dict], run_tool: RunTool, write_config: Callable[[Path], Path]
) -> None:
    config = write_config(reference[0])
    refused = run_tool("train", "--config", config, "--schedule.global_batch_rows", 2)
    assert_refused(refused, "other schedule.global_batch_rows", "allow_changed_data")
    refused = run_tool("train", "--config", config, "--model.num_layers", 1)
    assert_refused(refused, "model.num_layers=2", "the configuration has 1")


def test_a_dry_run_prints_the_plan_and_starts_nothing(
    tmp_path: Path, run_tool: RunTool, write_config: Callable[[Path], Path]
) -> None:
    config = write_config(tmp_path / "run")
    result = run_tool("train", "--config", config, "--dry-run", "--world-size", 2)
    assert result.returncode == 0, result.stderr
    assert "DP2" in result.stdout
    assert "tokens trained on" in result.stdout
    assert not (tmp_path / "run").exists()
