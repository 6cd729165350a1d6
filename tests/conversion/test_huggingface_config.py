"""config.json and generation_config.json of an export: the source's, but for what has changed."""

from pathlib import Path

import pytest
import torch

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.checkpoint.source import SourceFiles, keep_source
from megatron_in2.conversion.huggingface_config import (
    read_huggingface_config,
    write_huggingface_config,
)
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json

FRESH = {"initializer_range": 0.1, "bos_token_id": 1, "eos_token_id": 2}
TINY = ModelConfig(num_layers=1, hidden_size=16, num_attention_heads=2, num_query_groups=1)


def source_config(folder: Path, **changes: object) -> Path:
    """Write a config.json in the form of transformers 5."""
    step = folder / "step"
    write_huggingface_config(folder, step, TINY, torch.bfloat16, FRESH)
    fields = read_json(folder / "config.json")
    del fields["torch_dtype"], fields["rope_theta"]
    fields |= {"dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}
    write_json(folder / "config.json", fields | {"of_its_own": "yes"} | changes)
    return folder


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("dtype", "float32", torch.float32),
        ("torch_dtype", "float16", torch.float16),
        ("dtype", None, None),
    ],
)
def test_the_declared_dtype(
    tmp_path: Path, field: str, value: str | None, found: torch.dtype | None
) -> None:
    folder = source_config(tmp_path, dtype=None)
    write_json(folder / "config.json", read_json(folder / "config.json") | {field: value})
    assert read_huggingface_config(folder).dtype == found


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    folder = source_config(tmp_path, dtype="float8_e4m3fn")
    with pytest.raises(InputError, match="use float32, bfloat16 or float16"):
        read_huggingface_config(folder)


def test_a_model_without_a_source_gets_what_transformers_needs(tmp_path: Path) -> None:
    write_huggingface_config(tmp_path, tmp_path / "step", TINY, torch.float32, FRESH)
    fields = read_json(tmp_path / "config.json")
    assert fields["torch_dtype"] == "float32"
    assert FRESH.items() <= fields.items()
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    assert read_json(tmp_path / "generation_config.json") == tokens


@pytest.mark.parametrize("has_generation_config", [True, False])
def test_a_source_comes_back(tmp_path: Path, has_generation_config: bool) -> None:
    source = source_config(tmp_path / "source")
    files: SourceFiles = {"config.json": (source / "config.json").read_text()}
    if has_generation_config:
        files["generation_config.json"] = '{"eos_token_id": [2, 7],   "temperature": 0.6}'
    step, output = tmp_path / "step", tmp_path / "output"
    output.mkdir()
    keep_source(step, files)
    write_huggingface_config(output, step, TINY, torch.float32, FRESH)
    before, after = read_json(source / "config.json"), read_json(output / "config.json")
    # rope_theta is for transformers 4, which ignores rope_parameters.
    assert after == before | {"dtype": "float32", "rope_theta": 1e6}
    written = output / "generation_config.json"
    if has_generation_config:
        assert written.read_text() == files["generation_config.json"]
    assert written.exists() == has_generation_config
