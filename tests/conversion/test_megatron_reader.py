"""Reading distributed checkpoints: any layout, both specs' names, damage named."""

import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from safetensors.torch import load_file

from megatron_in2.architectures.registry import tensor_table
from megatron_in2.checkpoint.folder import read_model_config
from megatron_in2.checkpoint.store import load_weights
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.megatron_reader import MegatronReader
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.model.build import build_model
from megatron_in2.model.gpt import AnswerGPTModel
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.launch import run_local_ranks
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import open_world
from tests.conversion.conftest import MakeModel

SEAL = ("files", "seal")
RESAVE = Path(__file__).with_name("resave_ranks.py")


@pytest.fixture(scope="module")
def step(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> Path:
    """A tiny model imported, read only."""
    return import_checkpoint(model_folder, tmp_path_factory.mktemp("step") / "megatron").step


@pytest.fixture
def copy(tmp_path: Path, step: Path) -> Path:
    """A step of one's own to break, saved without hashes: the reader itself must find damage."""
    own = Path(shutil.copytree(step, tmp_path / "iter_0000000"))
    complete = read_json(own / "complete.json")
    write_json(own / "complete.json", {k: v for k, v in complete.items() if k not in SEAL})
    return own


def resave(step: Path, output: Path, tensor: int, pipeline: int) -> None:
    output.mkdir()
    command = [sys.executable, str(RESAVE), str(step), str(output), str(tensor), str(pipeline)]
    assert run_local_ranks(command, tensor * pipeline) == 0


def read_all(step: Path) -> dict[tuple[str, int | None], torch.Tensor]:
    config = read_model_config(step)
    reader = MegatronReader(step, config)
    return {(each.key, each.layer): reader.read(each) for each in tensor_table(config)}


@pytest.mark.parametrize(
    ("tied", "tensor", "pipeline"),
    [
        pytest.param(False, 2, 1, id="TP2"),
        pytest.param(False, 1, 2, id="PP2", marks=pytest.mark.slow),
        pytest.param(False, 2, 2, id="TP2xPP2", marks=pytest.mark.slow),
        pytest.param(True, 2, 2, id="TP2xPP2 tied", marks=pytest.mark.slow),
    ],
)
def test_every_layout_loads_the_import_and_exports_alike(
    tmp_path: Path, make_model: MakeModel, tied: bool, tensor: int, pipeline: int
) -> None:
    """HF -> import -> loaded and saved by Megatron-Core in a layout -> export.

    The vocabulary of 1,003 is padded under TP2.
    """
    source = make_model(tmp_path / "hf", heads=8, groups=2, tied=tied, dtype=torch.float32)
    step = import_checkpoint(source, tmp_path / "megatron").step
    resave(step, tmp_path / "iter_0000001", tensor, pipeline)
    export_checkpoint(tmp_path / "iter_0000001", tmp_path / "back")
    before, after = load_file(source / "model.safetensors"), load_file(
        tmp_path / "back/model.safetensors"
    )  # fmt: skip
    assert before.keys() == after.keys()
    for name, tensor_before in before.items():
        assert torch.equal(after[name], tensor_before), name


def test_padded_vocabulary_is_cut(tmp_path: Path, step: Path) -> None:
    """A table padded to 128 rows' multiple, as other tools pad it."""
    config = read_model_config(step)
    tensors = read_all(step)
    state = {}
    for mapping in tensor_table(config):
        tensor = tensors[mapping.key, mapping.layer]
        if mapping.layer is None and tensor.size(0) == config.vocab_size:
            tensor = torch.cat([tensor, torch.full((21, tensor.size(1)), 7.0).to(tensor)])
        state[mapping.key, mapping.layer] = tensor
    save_as(tmp_path / "padded", step, state, {})
    for key, tensor in read_all(tmp_path / "padded").items():
        assert torch.equal(tensor, tensors[key]), key


def test_names_of_the_torch_spec_are_read_too(tmp_path: Path, step: Path) -> None:
    """A checkpoint whose norms bear the names they have where they are not fused."""
    names = {
        "decoder.layers.self_attention.linear_qkv.layer_norm_weight": (
            "decoder.layers.input_layernorm.weight"
        ),
        "decoder.layers.mlp.linear_fc1.layer_norm_weight": (
            "decoder.layers.pre_mlp_layernorm.weight"
        ),
    }
    tensors = read_all(step)
    save_as(tmp_path / "plain", step, tensors, names)
    for key, tensor in read_all(tmp_path / "plain").items():
        assert torch.equal(tensor, tensors[key]), key


def test_extra_state_beside_the_weights_is_passed_over(tmp_path: Path, step: Path) -> None:
    """Whole saved models of other tools hold it for every linear layer, and torch's spec too."""
    config = read_model_config(step)
    folder = tmp_path / "whole"
    folder.mkdir()
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
        model: AnswerGPTModel = build_model(config, ParallelConfig(), world, torch.bfloat16)
        load_weights(step, model)
        weights = {name: each.clone() for name, each in model.named_parameters()}
        state = model.sharded_state_dict()
        scales = torch.tensor([3.0, 1.0])  # what it holds is its layer's own affair
        for name in [name for name in state if name.endswith("_extra_state")]:
            state[name] = replace(state[name], data=scales)
        dist_checkpointing.save({"model": state}, str(folder))
        copy_description(step, folder)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        load_weights(folder, model)
        assert all(torch.equal(each, weights[name]) for name, each in model.named_parameters())
    stored = torch.distributed.checkpoint.FileSystemReader(folder).read_metadata()
    assert any("_extra_state" in name for name in stored.state_dict_metadata)
    tensors = read_all(step)
    for key, tensor in read_all(folder).items():
        assert torch.equal(tensor, tensors[key]), key


def save_as(
    folder: Path,
    like: Path,
    tensors: dict[tuple[str, int | None], torch.Tensor],
    names: dict[str, str],
) -> None:
    """Save tensors through Megatron-Core, some keys under other names."""
    layers = read_model_config(like).num_layers
    folder.mkdir()
    with open_world(ParallelConfig(), SINGLE_RANK, seed=0):
        state = {
            f"{key}/{layer}": ShardedTensor.from_rank_offsets(
                names.get(key, key),
                tensor,
                *([] if layer is None else [(0, layer, layers)]),
                prepend_axis_num=0 if layer is None else 1,
            )
            for (key, layer), tensor in tensors.items()
        }
        dist_checkpointing.save({"model": state}, str(folder))
    copy_description(like, folder)


def copy_description(step: Path, folder: Path) -> None:
    for name in ("config.yaml", "complete.json"):
        shutil.copyfile(step / name, folder / name)
    shutil.copytree(step / "tokenizer", folder / "tokenizer")


def refused(step: Path, message: str) -> None:
    output = step.parent / "back"
    with pytest.raises(InputError, match=message) as caught:
        export_checkpoint(step, output)
    assert "\n" not in str(caught.value)
    assert not output.exists()


def test_missing_and_short_files(copy: Path) -> None:
    data = (copy / "__1_0.distcp").read_bytes()
    (copy / "__1_0.distcp").write_bytes(data[:-1])
    refused(copy, rf"__1_0\.distcp has {len(data) - 1} of {len(data)} bytes: .*take another step")
    (copy / "__1_0.distcp").unlink()
    refused(copy, r"__1_0\.distcp is missing: the checkpoint is damaged")


def test_damaged_tensor_is_named(copy: Path) -> None:
    path = copy / "__2_0.distcp"
    path.write_bytes(b"\xff" * path.stat().st_size)
    refused(copy, r"tensor decoder\.layers\..* is damaged")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04"])
def test_unreadable_metadata(copy: Path, content: bytes) -> None:
    (copy / ".metadata").write_bytes(content)
    refused(copy, r"\.metadata is not readable")


def test_incomplete_checkpoint(copy: Path) -> None:
    (copy / "complete.json").unlink()
    refused(copy, r"is incomplete \(no complete\.json\)")


def test_missing_and_extra_tensors(copy: Path) -> None:
    path = copy / ".metadata"
    metadata = pickle.loads(path.read_bytes())
    entries = metadata.state_dict_metadata
    entries["decoder.layers.mlp.linear_fc3.weight"] = entries.pop("output_layer.weight")
    path.write_bytes(pickle.dumps(metadata))
    refused(copy, r"tensors are missing: \['output_layer\.weight'\]")
    entries["output_layer.weight"] = entries["decoder.layers.mlp.linear_fc3.weight"]
    path.write_bytes(pickle.dumps(metadata))
    refused(copy, r"the architecture lacks: \['decoder\.layers\.mlp\.linear_fc3\.weight'\]")


def test_config_of_another_architecture(copy: Path) -> None:
    path = copy / "config.yaml"
    path.write_text(path.read_text().replace("ffn_hidden_size: 96", "ffn_hidden_size: 80"))
    refused(copy, r"linear_fc1\.weight has shape \(192, 64\), the architecture makes it \(160, 64")


def test_unknown_dtype(step: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dtype int8: use float32, bfloat16 or float16"):
        export_checkpoint(step, tmp_path / "back", dtype="int8")
