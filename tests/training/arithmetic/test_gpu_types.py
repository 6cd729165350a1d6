"""Peaks of cards by the names that torch gives them."""

from pathlib import Path

import pytest
import yaml

from megatron_in2.errors import InputError
from megatron_in2.model.attention_kernels import kernels_of_card
from megatron_in2.training.arithmetic.gpu_types import GPU_TYPES, peak_of_card, read_gpu


@pytest.mark.parametrize(
    ("card", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_cards_are_known_by_their_whole_name(card: str, tflops: float | None) -> None:
    assert peak_of_card(card) == (None if tflops is None else tflops * 1e12)


def test_no_card_is_listed_twice() -> None:
    types = yaml.safe_load(GPU_TYPES.read_text())
    names = [name for kind in types for name in read_gpu(GPU_TYPES, kind).device_names]
    assert len(names) == len(set(names)) > 3


def test_an_unreadable_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gpus\.yaml is not readable"):
        peak_of_card("NVIDIA H200", tmp_path / "gpus.yaml")


@pytest.mark.parametrize(
    ("gpu_type", "capability"), [("a100-80g", (8, 0)), ("h100", (9, 0)), ("h200", (9, 0))]
)
def test_attention_is_that_of_the_trainers_own_choice(
    gpu_type: str, capability: tuple[int, int]
) -> None:
    names = {"flash_2": "FlashAttention 2", "cudnn": "cuDNN", "flash_3": "FlashAttention 3"}
    gpu = read_gpu(GPU_TYPES, gpu_type)
    assert names[gpu.attention_kernel] == kernels_of_card(capability, has_flash_3=False).name
    if "flash_3" in gpu.attention_attained:
        assert kernels_of_card(capability, has_flash_3=True).name == names["flash_3"]


def test_a_kernel_without_a_share_is_named(tmp_path: Path) -> None:
    types = yaml.safe_load(GPU_TYPES.read_text())
    types["h100"]["attention_kernel"] = "flash_4"
    path = tmp_path / "gpus.yaml"
    path.write_text(yaml.safe_dump(types))
    with pytest.raises(InputError, match=r"h100\.attention_attained lacks flash_4"):
        read_gpu(path, "h100")
