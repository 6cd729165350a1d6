"""Both conversions: exact on every tensor, whole or absent, loadable by both libraries."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_in2.checkpoint.folder import step_folder
from megatron_in2.conversion.huggingface_to_megatron import import_checkpoint
from megatron_in2.conversion.megatron_to_huggingface import export_checkpoint
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, write_json
from megatron_in2.tokenizers.load import load_tokenizer
from tests.conftest import RunTool
from tests.conversion.conftest import V3, MakeModel


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a directory, through the safetensors library alone."""
    return {
        name: tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_tensors(a: Path, b: Path) -> None:
    ours, theirs = tensors_of(a), tensors_of(b)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype, name
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("groups", [8, 4, 2, 1])
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("shard_size", ["5GB", "100KB"], ids=["one file", "sharded"])
def test_round_trip_is_exact(
    tmp_path: Path, make_model: MakeModel, groups: int, tied: bool, shard_size: str
) -> None:
    source = make_model(tmp_path / "hf", 8, groups, tied, shard_size=shard_size)
    assert (source / "model.safetensors.index.json").exists() == (shard_size != "5GB")
    done = import_checkpoint(source, tmp_path / "megatron")
    export_checkpoint(done.step, tmp_path / "back", shard_bytes=100_000)
    assert_same_tensors(source, tmp_path / "back")
    assert done.tensors == len(tensors_of(source))
    assert done.warnings == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_other_dtypes_round_trip(tmp_path: Path, make_model: MakeModel, dtype: torch.dtype) -> None:
    source = make_model(tmp_path / "hf", dtype=dtype)
    export_checkpoint(import_checkpoint(source, tmp_path / "megatron").step, tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    assert read_json(tmp_path / "back/config.json")["dtype"] == str(dtype)[6:]


def test_export_to_another_dtype_rounds_once(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf", dtype=torch.float32)
    step = import_checkpoint(source, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back", dtype="bfloat16")
    exported = tensors_of(tmp_path / "back")
    for name, tensor in tensors_of(source).items():
        assert torch.equal(exported[name], tensor.to(torch.bfloat16)), name


def test_config_survives_field_by_field(tmp_path: Path, model_folder: Path) -> None:
    step = import_checkpoint(model_folder, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back")
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).config.to_dict()
        for folder in (model_folder, tmp_path / "back")
    )
    ignored = {"_name_or_path", "transformers_version"}
    differing = {key for key in before | after if before.get(key) != after.get(key)} - ignored
    assert differing == set()
    assert after["rope_parameters"]["rope_theta"] == 1e6
    assert after["sliding_window"] is None


def test_transformers_loads_the_export_whole_and_generates(
    tmp_path: Path, model_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    step = import_checkpoint(model_folder, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back", shard_bytes=100_000)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        model, info = AutoModelForCausalLM.from_pretrained(
            tmp_path / "back", output_loading_info=True
        )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert caplog.messages == []
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    ids = torch.tensor([tokenizer("[INST] Why? [/INST]")["input_ids"]])
    generated = model.generate(ids, max_new_tokens=5, do_sample=False)
    assert generated.shape == (1, ids.size(1) + 5)
    assert model.dtype == torch.bfloat16


def test_export_is_described(tmp_path: Path, model_folder: Path) -> None:
    step = import_checkpoint(model_folder, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back")
    card = (tmp_path / "back/README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "num_query_groups: 2" in card
    names = {path.name for path in (tmp_path / "back").iterdir()}
    assert names == {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer.model", "tokenizer_config.json"),
    }
    # The config comes back field by field in test_families.py.
    name = "generation_config.json"
    assert read_json(tmp_path / "back" / name) == read_json(model_folder / name)


def test_pickled_weights_need_leave(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf")
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").rename(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"pytorch_model\.bin is a pickle.*--allow-pickle"):
        import_checkpoint(source, tmp_path / "megatron")
    step = import_checkpoint(source, tmp_path / "megatron", allow_pickle=True).step
    export_checkpoint(step, tmp_path / "back")
    assert_same_tensors(tmp_path, tmp_path / "back")


def test_pickled_shards(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").rename(tmp_path / "model.safetensors")
    weight_map = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(tensors)}
    for file in set(weight_map.values()):
        torch.save({name: tensors[name] for name in tensors if weight_map[name] == file},
                   source / file)  # fmt: skip
    write_json(source / "pytorch_model.bin.index.json", {"weight_map": weight_map})
    step = import_checkpoint(source, tmp_path / "megatron", allow_pickle=True).step
    export_checkpoint(step, tmp_path / "back")
    assert_same_tensors(tmp_path, tmp_path / "back")


def test_pickle_that_runs_code_does_not(tmp_path: Path, make_model: MakeModel) -> None:
    class Harmful:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "harm"),)

    source = make_model(tmp_path / "hf")
    (source / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Harmful()}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match="not readable as tensors"):
        import_checkpoint(source, tmp_path / "megatron", allow_pickle=True)
    assert not (tmp_path / "harm").exists()


def test_third_release_goes_and_comes_back(tmp_path: Path, make_model: MakeModel) -> None:
    """32,768 pieces and the tokenizer of v0.3, whose control pieces are [INST] and others."""
    source = make_model(tmp_path / "hf", vocab_size=32768)
    shutil.copyfile(V3, source / "tokenizer.model")
    step = import_checkpoint(source, tmp_path / "megatron").step
    export_checkpoint(step, tmp_path / "back")
    assert_same_tensors(source, tmp_path / "back")
    exported = AutoTokenizer.from_pretrained(tmp_path / "back")
    messages = [{"role": "user", "content": "Why?"}]
    trained = [1, *load_tokenizer(str(V3)).encode("[INST] Why? [/INST]")]
    assert exported.apply_chat_template(messages, return_dict=False) == trained


def test_nan_is_counted_and_kept(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name][3, 5:7] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    done = import_checkpoint(source, tmp_path / "megatron")
    assert done.warnings == (f"2 values written are NaN or infinite, in 1 tensors: {name} (2)",)
    exported = export_checkpoint(done.step, tmp_path / "back")
    assert exported.warnings == done.warnings
    back = tensors_of(tmp_path / "back")
    for each, tensor in tensors.items():
        assert torch.equal(back[each].view(torch.int16), tensor.view(torch.int16))


def test_values_beyond_float16_are_counted(tmp_path: Path, make_model: MakeModel) -> None:
    source = make_model(tmp_path / "hf", dtype=torch.float32)
    tensors = load_file(source / "model.safetensors")
    tensors["lm_head.weight"][0, :3] = 1e5  # float16 ends at 65,504
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    step = import_checkpoint(source, tmp_path / "megatron").step
    assert export_checkpoint(step, tmp_path / "bfloat16", dtype="bfloat16").warnings == ()
    (warning,) = export_checkpoint(step, tmp_path / "float16", dtype="float16").warnings
    assert warning == "3 values written are NaN or infinite, in 1 tensors: lm_head.weight (3)"


def test_declared_dtype_that_is_not_the_stored_one_is_said(
    tmp_path: Path, make_model: MakeModel
) -> None:
    source = make_model(tmp_path / "hf", dtype=torch.float32)
    write_json(source / "config.json", read_json(source / "config.json") | {"dtype": "bfloat16"})
    done = import_checkpoint(source, tmp_path / "megatron")
    (warning,) = done.warnings
    assert "config.json says bfloat16, the tensors are float32: kept as stored" in warning


def test_step_is_chosen(tmp_path: Path, make_model: MakeModel) -> None:
    folder = tmp_path / "run"
    for number, groups in ((1, 4), (2, 1)):
        source = make_model(tmp_path / f"hf{number}", groups=groups)
        done = import_checkpoint(source, tmp_path / f"megatron{number}")
        folder.mkdir(exist_ok=True)
        done.step.rename(step_folder(folder, number))
    for wanted, number in (("latest", 2), ("1", 1), ("2", 2)):
        done = export_checkpoint(folder, tmp_path / f"back-{wanted}", wanted=wanted)
        assert done.step == step_folder(folder, number)
        assert_same_tensors(tmp_path / f"hf{number}", tmp_path / f"back-{wanted}")
    with pytest.raises(InputError, match=r"iter_0000003 holds no complete checkpoint"):
        export_checkpoint(folder, tmp_path / "no", wanted="3")
    with pytest.raises(InputError, match="--from newest: name a step's number, or latest"):
        export_checkpoint(folder, tmp_path / "no", wanted="newest")


def test_existing_output_is_kept(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there already exists"):
        import_checkpoint(model_folder, tmp_path / "there")
    step = import_checkpoint(model_folder, tmp_path / "megatron").step
    with pytest.raises(InputError, match="there already exists"):
        export_checkpoint(step, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def write_sparse_model(folder: Path, small: Path, layers: int, wide: int) -> Path:
    """Write a directory whose shards claim sizes, all zeros, that take no place on the disk.

    Its sizes are those of the one-layer model ``small``, but for the width of the feed-forward
    layer: each layer claims 384 bytes times ``wide``.
    """
    shutil.copytree(small, folder)
    sizes = {"intermediate_size": wide, "num_hidden_layers": layers}
    write_json(folder / "config.json", read_json(folder / "config.json") | sizes)
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(folder).items()}
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for layer in range(layers):
        header: dict[str, object] = {}
        offset = 0
        for name, shape in shapes.items():
            if layer and "layers.0" not in name:
                continue
            own = name.replace("layers.0", f"layers.{layer}")
            shape = [wide if size == 96 else size for size in shape]
            end = offset + 2 * torch.Size(shape).numel()
            header[own] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
            weight_map[own], offset = f"{layer}.safetensors", end
        text = json.dumps(header).encode()
        with open(folder / f"{layer}.safetensors", "wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + offset)
    write_json(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    return folder


def test_too_small_a_disk_is_refused_before_starting(tmp_path: Path, make_model: MakeModel) -> None:
    """A layer claims 6.4 GB; all of them more than the disk has free."""
    wide = 2**24
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    small = make_model(tmp_path / "small", layers=1)
    source = write_sparse_model(tmp_path / "hf", small, free // (384 * wide) + 1, wide)
    with pytest.raises(InputError, match=r"megatron needs [\d,.]+ GB and .* GB free"):
        import_checkpoint(source, tmp_path / "megatron")
    assert {path.name for path in tmp_path.iterdir()} == {"small", "hf"}


@pytest.mark.slow
def test_killed_in_the_middle_then_run_again(
    tmp_path: Path, make_model: MakeModel, run_tool: RunTool
) -> None:
    """SIGKILL once the first layers are written: no output, and the next run starts clean."""
    small = make_model(tmp_path / "small", layers=1)
    source = write_sparse_model(tmp_path / "hf", small, layers=16, wide=2**16)
    output = tmp_path / "megatron"
    tool = Path(__file__).parents[2] / "tools" / "convert_checkpoint.py"
    command = [sys.executable, str(tool), "hf-to-megatron", "--input", str(source)]
    with subprocess.Popen([*command, "--output", str(output)], stderr=subprocess.DEVNULL) as run:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".megatron.partial-*/iter_0000000/__1_0.distcp")):
            assert run.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".megatron.partial-*"))) == 1
    assert not output.exists()
    again = run_tool("convert_checkpoint", "hf-to-megatron", "--input", source, "--output", output)
    assert again.returncode == 0, again.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"small", "hf", "megatron"}


def test_leftovers_of_the_dead_go_those_of_the_living_stay(
    tmp_path: Path, model_folder: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead = tmp_path / f".megatron.partial-{process.pid}"
    alive = tmp_path / f".megatron.partial-{os.getppid()}"
    for folder in (dead, alive):
        (folder / "iter_0000000").mkdir(parents=True)
    import_checkpoint(model_folder, tmp_path / "megatron")
    assert not dead.exists()
    assert alive.exists()
