"""The result of a conversion, and the space that it needs."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

from megatron_in2.errors import InputError

SPARE_BYTES = 64 * 2**20  # for the files other than tensors


@dataclass(frozen=True)
class Conversion:
    """What a conversion did.

    Args:
        step: the complete step that was written or read.
        folder: the Hugging Face directory that was read or written.
        summary: the architecture in one line.
        tensors: Hugging Face tensors converted.
        nbytes: bytes of weights written.
        warnings: what the user should know, one line each.
    """

    step: Path
    folder: Path
    summary: str
    tensors: int
    nbytes: int
    warnings: tuple[str, ...]


def prepare_output(output: Path, nbytes: int) -> None:
    """Remove what killed conversions to the same output left, then compare the disk.

    Raises:
        InputError: the disk has too little free.
    """
    for path in output.parent.glob(f".{output.name}.partial-*"):
        owner = path.name.rpartition("-")[2]
        if not (owner.isdecimal() and psutil.pid_exists(int(owner))):
            shutil.rmtree(path, ignore_errors=True)
    folder = next(parent for parent in output.absolute().parents if parent.is_dir())
    needed, free = nbytes + SPARE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{output} needs {needed / 1e9:,.1f} GB and {folder} has {free / 1e9:,.1f} GB free: "
            "free some, or name an output on another disk"
        )
