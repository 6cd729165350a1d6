"""Runs of the training command on the GPU and on the CPU of one machine."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer
from tests.conftest import ROOT

HERE = Path(__file__).resolve().parent
SEQ_LENGTH = 2048
STEPS = 20
ROWS = 2  # of a step
MODEL = {
    "num_layers": 4,
    "hidden_size": 512,
    "num_attention_heads": 8,
    "num_query_groups": 2,
    "head_dim": 64,
    "ffn_hidden_size": 1536,
    "vocab_size": 32000,
    "max_position_embeddings": SEQ_LENGTH,
    "rope_theta": 1e4,
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder, and skip them where no GPU is."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="no GPU is here"))


@dataclass(frozen=True)
class Run:
    """What a run of the training command has printed and logged."""

    code: int
    output: str
    errors: str
    steps: list[dict[str, Any]]

    @property
    def losses(self) -> list[float]:
        assert self.code == 0, self.output + self.errors
        return [line["loss"] for line in self.steps]


Train = Callable[..., Run]


@pytest.fixture(scope="session")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int, int], Path]:
    """Write a dataset of random rows of one length, cut into so many samples; return its prefix."""
    folder = tmp_path_factory.mktemp("rows")
    tokenizer = load_tokenizer(MISTRAL_V1)

    def write(seq_length: int, samples: int) -> Path:
        prefix = folder / f"{seq_length}x{samples}"
        if not prefix.with_name(f"{prefix.name}.json").exists():
            lengths = [seq_length // samples] * samples
            write_random_rows(prefix, tokenizer, ROWS * STEPS, lengths, learnt_share=0.1)
        return prefix

    return write


@pytest.fixture(scope="session")
def train(rows: Callable[[int, int], Path]) -> Train:
    """Train in a folder, on the GPU or the CPU, with options; every step is logged."""

    def run(
        folder: Path,
        *options: str,
        device: str = "cuda",
        samples: int = 4,
        model: dict[str, Any] = MODEL,
        **runtime: Any,
    ) -> Run:
        length = model["max_position_embeddings"]
        config = {
            "model": model,
            "data": {
                "train": str(rows(length, samples)),
                "tokenizer_model": MISTRAL_V1,
                "seq_length": length,
            },
            "optimizer": {"lr": 1e-4},
            "schedule": {"global_batch_rows": ROWS, "steps": STEPS, "warmup_fraction": 0.2},
            "checkpoint": {"dir": str(folder), "interval_steps": 1000},
            "logging": {"tensorboard": False, "interval_steps": 1},
            "runtime": {"backend": "torch", **runtime},
        }
        file = folder.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(config))
        done = subprocess.run(
            [sys.executable, str(ROOT / "tools" / "train.py"), "--config", str(file), *options],
            env={**os.environ, **({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})},
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        log = folder / "metrics.jsonl"
        lines = log.read_text().splitlines() if log.is_file() else []
        steps = [line for line in map(json.loads, lines) if "loss" in line]
        return Run(done.returncode, done.stdout, done.stderr, steps)

    return run
