"""Checkpoints of real training runs, exported."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from megatron_in2.checkpoint.folder import resolve_checkpoint
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.files import read_json
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import RunTool
from tests.conversion.conftest import MakeModel

RESAVE = Path(__file__).with_name("resave_ranks.py")


@pytest.mark.slow
def test_trained_under_tp2_pp2_exports_as_under_tp1(
    tmp_path: Path,
    make_model: MakeModel,
    small_tokenizer: Tokenizer,
    texts: list[str],
    run_tool: RunTool,
) -> None:
    source = make_model(tmp_path / "hf", heads=8, groups=2, dtype=torch.float32)
    started = import_checkpoint(source, tmp_path / "start").step
    prose = [text for text in texts if len(text) > 200][:40]
    samples = [
        {"id": str(i), "kind": "short", "question": text[:80], "answer": text[80:200]}
        for i, text in enumerate(prose)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(each) + "\n" for each in samples))
    rows = tmp_path / "rows"
    packed = run_tool(
        "preprocess_in2",
        *("--input", tmp_path / "x.jsonl", "--output-prefix", rows),
        *("--tokenizer-model", small_tokenizer.path, "--seq-length", 512),
    )
    assert packed.returncode == 0, packed.stderr
    config = {
        "model": yaml.safe_load((started / "config.yaml").read_text())["model"],
        "data": {
            "train": str(rows),
            "tokenizer_model": str(small_tokenizer.path),
            "seq_length": 512,
        },
        "parallel": {"tensor": 2, "pipeline": 2},
        "optimizer": {"lr": 1e-2},
        "schedule": {"global_batch_rows": 2, "steps": 3},
        "checkpoint": {"dir": str(tmp_path / "run"), "init_from": str(started)},
        "runtime": {"dtype": "float32"},
    }
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(config))
    trained = run_tool("train", "--config", tmp_path / "train.yaml", "--nproc", 4)
    assert trained.returncode == 0, trained.stderr

    done = export_checkpoint(tmp_path / "run", tmp_path / "from-tp2pp2")
    assert done.step == resolve_checkpoint(tmp_path / "run")
    (tmp_path / "tp1").mkdir()
    command = [sys.executable, str(RESAVE), str(done.step), str(tmp_path / "tp1"), "1", "1"]
    assert run_local_ranks(command, 1) == 0
    export_checkpoint(tmp_path / "tp1", tmp_path / "from-tp1")

    before, parallel, single = (
        load_file(folder / "model.safetensors")
        for folder in (source, tmp_path / "from-tp2pp2", tmp_path / "from-tp1")
    )
    assert before.keys() == parallel.keys() == single.keys()
    for name, tensor in parallel.items():
        assert torch.equal(tensor, single[name]), name
        assert not torch.equal(tensor, before[name]), name  # training moved every tensor
    verified = run_tool(
        "convert_checkpoint",
        *("megatron-to-hf", "--input", tmp_path / "run", "--output", tmp_path / "again"),
        *("--from", "latest", "--verify"),
    )
    assert verified.returncode == 0, verified.stderr
    assert "verified: 21 tensors equal bit for bit" in verified.stdout

    card = (tmp_path / "again/README.md").read_text()
    manifest = read_json(tmp_path / "rows.json")
    assert "consumed_rows: 6" in card
    assert "lr: 0.01" in card
    assert f"learnt_tokens: {manifest['learnt_tokens']}" in card
    assert manifest["files"][".bin"]["sha256"] in card
