"""Files of version 1 can still be read: a dataset, a checkpoint and its export."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from megatron_in2.commands.parser import CommandParser
from megatron_in2.data.inspection.check import check_dataset
from megatron_in2.data.packed.dataset import PackedDataset
from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.data.packing.merge import merge_datasets
from megatron_in2.errors import InputError
from megatron_in2.tokenizers.load import load_tokenizer
from megatron_in2.training.config import TrainConfig
from tests.conftest import ROOT, RunTool

TINY = ROOT / "configs" / "tiny.yaml"
KEPT = ROOT / "tests" / "version1"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy, which a run may change."""
    return shutil.copytree(KEPT, tmp_path / "old")


@pytest.mark.parametrize("name", ["in2", "in2_valid", "chatml"])
def test_datasets_are_sound(name: str) -> None:
    prefix = KEPT / "data" / name
    findings = check_dataset(prefix, load_tokenizer(str(KEPT / "tokenizer.model")))
    assert findings.problems == []
    assert findings.marked_spans == findings.spans > 0
    assert read_manifest(prefix).template == ("chatml" if name == "chatml" else "film")


def test_a_run_resumes(old: Path, run_tool: RunTool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(old)
    config = yaml.safe_load((old / "train.yaml").read_text())
    moved = ("backend", "logits", "init_std")
    for name in moved:
        config["runtime"][name] = config["model"].pop(name)
    (old / "moved.yaml").write_text(yaml.safe_dump(config))
    result = run_tool("train", "--config", "moved.yaml")
    assert result.returncode == 0, result.stderr
    assert "resuming from checkpoints/iter_0000002" in result.stdout
    saved = yaml.safe_load((old / "checkpoints/iter_0000004/config.yaml").read_text())
    assert saved["runtime"]["init_std"] == 0.1
    assert not set(moved) & set(saved["model"])
    expected, found = (
        [json.loads(line) for line in (old / path).read_text().splitlines()]
        for path in ("full_metrics.jsonl", "checkpoints/metrics.jsonl")
    )
    for line, wanted in zip(found, expected, strict=True):
        for name in {"step", "loss", "grad_norm", "validation_loss"} & wanted.keys():
            assert line[name] == pytest.approx(wanted[name], rel=1e-6), (name, line)


def test_fields_that_have_moved_are_named(old: Path) -> None:
    for options in ([], ["--model.backend=torch"]):
        with pytest.raises(InputError, match=r"^model\.\w+ has moved: write runtime\.\w+ instead$"):
            CommandParser(None, TrainConfig).read(
                ["--config", str(old / "train.yaml" if not options else TINY), *options]
            )


def test_a_checkpoint_exports_the_same_tensors(old: Path, run_tool: RunTool) -> None:
    output = old / "again"
    result = run_tool(
        "convert_checkpoint", "megatron-to-hf", "--input", old / "checkpoints", "--output", output
    )
    assert result.returncode == 0, result.stderr
    kept, again = (
        load_file(folder / "model.safetensors") for folder in (KEPT / "huggingface", output)
    )
    assert kept.keys() == again.keys()
    assert all(kept[name].equal(again[name]) for name in kept)


def test_samples_pack_to_the_same_ids_and_masks(old: Path, run_tool: RunTool) -> None:
    result = run_tool(
        "preprocess_in2",
        *("--input", old / "samples.jsonl", old / "chats.jsonl"),
        *("--output-prefix", old / "again", "--tokenizer-model", old / "tokenizer.model"),
        *("--seq-length", 512, "--validation-fraction", 0.2),
    )
    assert result.returncode == 0, result.stderr
    for split in ("", "_valid"):
        kept, again = KEPT / "data" / f"in2{split}", old / f"again{split}"
        assert _samples(again) == _samples(kept)


def _samples(prefix: Path) -> dict[int, tuple[bytes, bytes]]:
    """Each sample's ids and mask, by its id's hash; the rows they are in are another matter."""
    data, found = PackedDataset(prefix), {}
    for row in map(data.__getitem__, range(len(data))):
        starts = np.cumsum([0, *row.lengths[:-1]])
        for start, record in zip(starts.tolist(), row.records, strict=True):
            place = slice(start, start + int(record["length"]))
            content = (row.tokens[place].tobytes(), row.loss_mask[place].tobytes())
            found[int(record["id_hash"])] = content
    found.pop(0, None)  # fillings
    return found


def test_old_shards_merge_to_a_dataset_of_today(old: Path) -> None:
    prefix = KEPT / "data" / "in2"
    merged = merge_datasets(old / "merged", [prefix, KEPT / "data" / "in2_valid"])
    assert merged.format_version > read_manifest(prefix).format_version
    own = load_tokenizer(str(KEPT / "tokenizer.model"))
    assert check_dataset(old / "merged", own).problems == []
    both = _samples(prefix) | _samples(KEPT / "data" / "in2_valid")
    assert _samples(old / "merged") == both
