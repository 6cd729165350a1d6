"""A tiny run on real prose: dataset, configuration, and the training command."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from transformers import MistralConfig, MistralForCausalLM

from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.data.packed.order import rows_at
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.pipeline import synthesize
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import RunTool

WriteConfig = Callable[[Path], Path]

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
    """The configuration of a run of a few steps, without ``checkpoint.dir``."""
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


@pytest.fixture(scope="session")
def huggingface_model(tmp_path_factory: pytest.TempPathFactory, small_tokenizer: Tokenizer) -> Path:
    """A random Mistral, made and saved by transformers.

    Norms are random too (in a fresh model all are one), so that swapping two of them shows;
    matrices are five times larger, so that attention and logits are far from uniform.
    """
    folder = tmp_path_factory.mktemp("huggingface") / "model"
    torch.manual_seed(11)
    model = MistralForCausalLM(
        MistralConfig(
            num_hidden_layers=MODEL["num_layers"],
            hidden_size=MODEL["hidden_size"],
            num_attention_heads=MODEL["num_attention_heads"],
            num_key_value_heads=MODEL["num_query_groups"],
            head_dim=MODEL["head_dim"],
            intermediate_size=MODEL["ffn_hidden_size"],
            vocab_size=MODEL["vocab_size"],
            max_position_embeddings=MODEL["max_position_embeddings"],
            rope_theta=MODEL["rope_theta"],
            rms_norm_eps=1e-5,
            initializer_range=0.1,
            sliding_window=None,
            tie_word_embeddings=False,
        )
    )
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    model.save_pretrained(folder)
    shutil.copyfile(small_tokenizer.path, folder / "tokenizer.model")
    return folder


@pytest.fixture(scope="session")
def imported(huggingface_model: Path) -> Path:
    """The same model as this project's checkpoint."""
    folder = huggingface_model.with_name("imported")
    import_checkpoint(huggingface_model, folder)
    return folder


@pytest.fixture(scope="session")
def sparse_dataset(dataset: Path, base_config: dict) -> Path:
    """The dataset with most of the loss mask of some global batches removed.

    The only answer token of step 3 is in its first row; each row of step 5 keeps one; step 7 has
    none. (Rows that come again in a second epoch are as sparse there.)
    """
    sparse = dataset.parent / "sparse"
    for file in dataset.parent.glob("in2[._]*"):
        if "_valid" not in file.name:
            shutil.copyfile(file, file.with_name(file.name.replace("in2", "sparse", 1)))
    counts = np.load(f"{sparse}_rows.npy")
    masks = np.memmap(f"{sparse}_loss_mask.bin", np.uint8, "r+", shape=(len(counts), SEQ_LENGTH))
    batch = base_config["schedule"]["global_batch_rows"]
    kept = {3: (1, 0, 0, 0), 5: (1, 1, 1, 1), 7: (0, 0, 0, 0)}
    for step, keep in kept.items():
        places = np.arange((step - 1) * batch, step * batch)
        rows = rows_at(places, len(counts), 1234, read_manifest(dataset).unit_rows)
        for row, count in zip(rows, keep, strict=True):
            masks[row, np.flatnonzero(masks[row])[count:]] = 0
    masks.flush()
    counts["learnt_tokens"] = masks.sum(axis=1)
    np.save(f"{sparse}_rows.npy", counts)
    return sparse


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
