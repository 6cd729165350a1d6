"""Hugging Face directories: what is read of them, and how unusable ones are refused."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_in2.conversion.huggingface_reader import HuggingFaceReader
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.tokenizers.base import Tokenizer
from tests.conversion.conftest import MakeModel


@pytest.fixture
def copy(tmp_path: Path, model_folder: Path) -> Path:
    """A directory of one's own to break."""
    return Path(shutil.copytree(model_folder, tmp_path / "hf"))


@pytest.fixture
def sharded(tmp_path: Path, make_model: MakeModel) -> Path:
    return make_model(tmp_path / "sharded", shard_size="100KB")


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    """Rewrite the only shard with some tensors changed, or left out (None)."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in changes.items():
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path, metadata={"format": "pt"})


def assert_import_refused(folder: Path, message: str) -> None:
    output = folder.parent / "megatron"
    with pytest.raises(InputError, match=message) as caught:
        import_checkpoint(folder, output)
    assert "\n" not in str(caught.value)
    assert not output.exists()
    assert not list(output.parent.glob(".megatron*"))


def test_absent_directory_and_broken_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/config\.json does not exist"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        import_checkpoint(tmp_path, tmp_path / "out")
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="is not a JSON object"):
        import_checkpoint(tmp_path, tmp_path / "out")


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    assert_import_refused(copy, r"holds no model\.safetensors and no model\.safetensors\.index")


@pytest.mark.parametrize("kept", [4, 60, 0.5, 0.999])
def test_truncated_shard(copy: Path, kept: float) -> None:
    data = (copy / "model.safetensors").read_bytes()
    size = int(kept * len(data)) if kept < 1 else int(kept)
    (copy / "model.safetensors").write_bytes(data[:size])
    assert_import_refused(copy, r"model\.safetensors is damaged")


def test_corrupt_header(copy: Path) -> None:
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[10:20] = b"\xff" * 10
    (copy / "model.safetensors").write_bytes(data)
    assert_import_refused(copy, r"model\.safetensors is damaged")


def test_index_names_an_absent_shard(sharded: Path) -> None:
    victim = sorted(sharded.glob("model-*.safetensors"))[1]
    victim.unlink()
    assert_import_refused(sharded, rf"index\.json names {victim.name}, which does not exist")


def test_damaged_shard_among_sound_ones(sharded: Path) -> None:
    victim = sorted(sharded.glob("model-*.safetensors"))[-1]
    victim.write_bytes(victim.read_bytes()[:-1])
    assert_import_refused(sharded, rf"{victim.name} is damaged")


def test_index_and_shards_disagree(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    index = read_json(path)
    del index["weight_map"]["model.norm.weight"]
    write_json(path, index)
    assert_import_refused(sharded, r"disagree on tensors: \['model\.norm\.weight'\]")


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": {"a": "../b"}}, []])
def test_unusable_index(sharded: Path, index: object) -> None:
    write_json(sharded / "model.safetensors.index.json", index)
    assert_import_refused(sharded, "weight_map")


def test_missing_extra_and_misshapen_tensors(copy: Path) -> None:
    norm = "model.layers.1.post_attention_layernorm.weight"
    original = load_file(copy / "model.safetensors")[norm]
    edit_tensors(copy, **{norm: None})
    assert_import_refused(copy, f"tensors are missing: {norm}")
    edit_tensors(copy, **{norm: original[:-1].clone()})
    assert_import_refused(copy, rf"{norm} has shape \(63,\), config.json makes it \(64,\)")
    bias = "model.layers.0.self_attn.q_proj.bias"
    edit_tensors(copy, **{norm: original, bias: torch.zeros(64)})
    assert_import_refused(copy, f"the architecture lacks: {bias}")


def test_config_of_another_size(copy: Path) -> None:
    path = copy / "config.json"
    write_json(path, read_json(path) | {"num_key_value_heads": 4})
    assert_import_refused(copy, r"k_proj.weight has shape \(32, 64\), config.json makes it \(64")


def test_layers_beyond_the_config(copy: Path) -> None:
    path = copy / "config.json"
    write_json(path, read_json(path) | {"num_hidden_layers": 1})
    assert_import_refused(copy, "the architecture lacks: model.layers.1.input_layernorm.weight")


def test_quantised_and_mixed_dtypes(copy: Path) -> None:
    name = "model.layers.1.mlp.down_proj.weight"
    original = load_file(copy / "model.safetensors")[name]
    edit_tensors(copy, **{name: original.to(torch.int8)})
    assert_import_refused(copy, rf"tensor {name} is stored as I8: name a directory with float32")
    edit_tensors(copy, **{name: original.float()})
    assert_import_refused(copy, rf"{name} is float32, others of its kind are bfloat16")


def test_norms_may_have_a_dtype_of_their_own(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    norms = {name: tensor.float() for name, tensor in tensors.items() if "norm" in name}
    edit_tensors(copy, **norms)
    done = import_checkpoint(copy, copy.parent / "megatron")
    assert "bfloat16 and float32: kept as stored" in done.warnings[0]


def test_head_of_a_tied_model_must_be_its_embedding(tmp_path: Path, make_model: MakeModel) -> None:
    folder = make_model(tmp_path / "tied", tied=True)
    embedding = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    edit_tensors(folder, **{"lm_head.weight": embedding.clone()})
    import_checkpoint(folder, tmp_path / "sound")
    edit_tensors(folder, **{"lm_head.weight": embedding + 1})
    assert_import_refused(folder, "ties lm_head.weight to model.embed_tokens.weight, yet they diff")


def test_tokenizer_of_another_release(copy: Path, tokenizer: Tokenizer) -> None:
    shutil.copyfile(tokenizer.path, copy / "tokenizer.model")
    assert_import_refused(copy, r"has 32,000 pieces, config.json says vocab_size=1,003")
    (copy / "tokenizer.model").unlink()
    assert_import_refused(copy, r"holds no tokenizer\.model")


def test_reader_refuses_an_unknown_name(model_folder: Path) -> None:
    with pytest.raises(InputError, match=r"tensor model\.x is missing"):
        HuggingFaceReader(model_folder).read("model.x", (1,))
