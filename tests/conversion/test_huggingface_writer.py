"""Streamed shards are what the safetensors library itself reads and writes."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from megatron_in2.conversion.huggingface_writer import TensorSpec, write_huggingface_tensors

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple)


def random_tensors(shapes: list[tuple[int, ...]], dtypes: list[torch.dtype]) -> list[torch.Tensor]:
    return [torch.randn(shape).to(dtype) for shape, dtype in zip(shapes, dtypes, strict=False)]


def specs_of(tensors: list[torch.Tensor]) -> list[TensorSpec]:
    return [TensorSpec(f"t.{i}", tuple(t.shape), t.dtype) for i, t in enumerate(tensors)]


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(SHAPES, min_size=1, max_size=8),
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=8, max_size=8),
    shard_bytes=st.integers(1, 2000),
)
def test_library_reads_what_was_streamed(
    tmp_path_factory: pytest.TempPathFactory,
    shapes: list[tuple[int, ...]],
    dtypes: list[torch.dtype],
    shard_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    tensors = random_tensors(shapes, dtypes)
    specs = specs_of(tensors)
    write_huggingface_tensors(folder, specs, iter(tensors), shard_bytes)
    files = sorted(folder.glob("*.safetensors"))
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert list(found) == [spec.name for spec in specs] or len(files) > 1
    for spec, tensor in zip(specs, tensors, strict=True):
        assert found[spec.name].dtype == tensor.dtype
        assert torch.equal(found[spec.name], tensor)
    if len(files) > 1:
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors)
        for file in files:
            held = load_file(file)
            assert set(held) == {n for n, f in index["weight_map"].items() if f == file.name}
            assert len(held) == 1 or sum(t.nbytes for t in held.values()) <= shard_bytes
    else:
        assert files[0].name == "model.safetensors"


def test_file_is_the_librarys_own_byte_for_byte(tmp_path: Path) -> None:
    tensors = random_tensors([(3, 5), (7, 2), (4, 4)], [torch.bfloat16] * 3)
    write_huggingface_tensors(tmp_path, specs_of(tensors), iter(tensors), 10**9)
    named = {f"t.{i}": tensor for i, tensor in enumerate(tensors)}
    save_file(named, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_tensor_that_was_not_promised(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        write_huggingface_tensors(
            tmp_path,
            [TensorSpec("a", (2, 3), torch.float32)],
            iter([torch.zeros(3, 2)]),
            10**9,
        )
