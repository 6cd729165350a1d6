"""A tiny run on real prose: dataset, configuration, and the training command."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from megatron_in2.data.config import PreprocessConfig
from megatron_in2.data.preprocess import preprocess
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.pipeline import synthesize
from megatron_in2.tokenizer import Tokenizer
from tests.conftest import RunTool

SEQ_LENGTH = 512
STEPS = 6

MODEL = {
    "num_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_query_groups": 2,
    "head_dim": 16,
    "ffn_hidden_size": 128,
    "vocab_size": 1003,
    "max_position_embeddings": SEQ_LENGTH,
    "rope_theta": 1e4,
}


@pytest.fixture(scope="session")
def dataset(
    tmp_path_factory: pytest.TempPathFactory, corpus_file: Path, small_tokenizer: Tokenizer
) -> Path:
    """Packed rows of 512 tokens with unequal samples, and a validation split."""
    folder = tmp_path_factory.mktemp("data")
    synthesis = SynthesisConfig(
        corpus=CorpusConfig(paths=[str(corpus_file)], max_documents=300),
        segments=SegmentConfig(min_tokens=24),
        composition=CompositionConfig(min_tokens=100, max_tokens=SEQ_LENGTH),
        mixture=MixtureConfig(fine_grained=120, integration=0, short=20),
        tokenizer_model=str(small_tokenizer.path),
    )
    synthesize(synthesis, folder / "samples.jsonl")
    packing = PreprocessConfig(
        input=[folder / "samples.jsonl"],
        output_prefix=folder / "in2",
        tokenizer_model=str(small_tokenizer.path),
        seq_length=SEQ_LENGTH,
        validation_fraction=0.1,
    )
    preprocess(packing)
    return folder / "in2"


@pytest.fixture(scope="session")
def base_config(dataset: Path, small_tokenizer: Tokenizer) -> dict:
    """A run of a few steps, as a config file holds it; ``checkpoint.dir`` is still to be named."""
    return {
        "model": MODEL,
        "data": {
            "train": str(dataset),
            "validation": f"{dataset}_valid",
            "tokenizer_model": str(small_tokenizer.path),
            "seq_length": SEQ_LENGTH,
        },
        "optimizer": {"lr": 5e-3},
        "schedule": {"global_batch_rows": 4, "steps": STEPS, "warmup_fraction": 0.2},
        "checkpoint": {"interval_steps": 100},
        "logging": {"tensorboard": False, "validation_interval_steps": 100},
        "runtime": {"dtype": "float32"},
    }


@pytest.fixture(scope="session")
def write_config(base_config: dict) -> Callable[[Path], Path]:
    """Write the configuration of a run that saves in a folder, and return the file."""

    def write(folder: Path) -> Path:
        config = {**base_config, "checkpoint": {**base_config["checkpoint"], "dir": str(folder)}}
        path = folder.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(config))
        return path

    return write


Train = Callable[..., dict[int, dict]]


@pytest.fixture(scope="session")
def train(run_tool: RunTool, write_config: Callable[[Path], Path]) -> Train:
    """Train in a folder with options; return the metrics of each step."""

    def run(folder: Path, *options: object, nproc: int = 1) -> dict[int, dict]:
        result = run_tool("train", "--config", write_config(folder), "--nproc", nproc, *options)
        assert result.returncode == 0, result.stdout + result.stderr
        return read_metrics(folder)

    return run


def read_metrics(folder: Path) -> dict[int, dict]:
    """Read a run's step lines, by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line for line in lines if "loss" in line}


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, train: Train) -> tuple[Path, dict]:
    """One process, never interrupted: its checkpoint folder and metrics."""
    folder = tmp_path_factory.mktemp("reference") / "run"
    return folder, train(folder)
