"""The figures of ``gpus.yaml``, by GPU type or by card name."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_yaml

GPU_TYPES = Path(__file__).with_name("gpus.yaml")


@dataclass(frozen=True)
class Gpu:
    """One type of GPU: see ``gpus.yaml`` for units and sources."""

    bf16_tflops: float
    memory_gib: float
    memory_gb_s: float
    link_gb_s: float
    network_gb_s: float
    attained: float
    matrix_attained: float
    attention_attained: dict[str, float]
    attention_kernel: str
    device_names: tuple[str, ...] = ()

    def attention_share(self, is_flash: bool) -> float:
        """Return the share of the peak that attention reaches.

        Args:
            is_flash: whether the kernel is flash attention on every card; else the card's first.
        """
        kernel = self.attention_kernel
        if is_flash and kernel != "flash_3":
            kernel = "flash_2"
        return self.attention_attained[kernel]


def read_gpu(path: Path, name: str) -> Gpu:
    """Read a GPU type from the data file.

    Raises:
        InputError: the file has no such type, an entry lacks a field, or a kernel its share.
    """
    known = read_yaml(path)
    if name not in known:
        raise InputError(f"--gpu-type {name}: {path} has {', '.join(known)}")
    return _gpu(path, name, known[name])


def read_gpus(path: Path) -> dict[str, Gpu]:
    """Read all GPU types of the data file, by name.

    Raises:
        InputError: the file is unreadable, or an entry lacks a field.
    """
    return {name: _gpu(path, name, values) for name, values in read_yaml(path).items()}


def peak_of_card(device_name: str, path: Path = GPU_TYPES) -> float | None:
    """Return a card's dense bfloat16 peak in FLOP/s, or None for a card that the file lacks.

    Args:
        device_name: from ``torch.cuda.get_device_name``. The whole name must match, because cards
            of one family have different peaks (H100 SXM 989, PCIe 756 TFLOP/s).
        path: the data file.

    Raises:
        InputError: the file is unreadable, or an entry lacks a field.
    """
    for gpu in read_gpus(path).values():
        if device_name in gpu.device_names:
            return gpu.bf16_tflops * 1e12
    return None


def _gpu(path: Path, name: str, values: dict[str, Any]) -> Gpu:
    required = {item.name for item in fields(Gpu)} - {"device_names"}
    if missing := required - set(values):
        raise InputError(f"{path}: {name} lacks {', '.join(sorted(missing))}")
    kernel, known = values["attention_kernel"], values["attention_attained"]
    if kernel not in known or "flash_2" not in known:
        raise InputError(f"{path}: {name}.attention_attained lacks {kernel} or flash_2")
    return Gpu(**{**values, "device_names": tuple(values.get("device_names", ()))})
