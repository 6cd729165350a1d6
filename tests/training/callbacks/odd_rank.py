"""``in2 train`` with a defect of rank 1, which the variable ODD_RANK names.

Run by the tests in place of the command; its options are the command's.
"""

import os
import resource
import time

import psutil

from megatron_in2.commands.parser import run_command
from megatron_in2.commands.train import main
from megatron_in2.data.packed.dataset import PackedDataset, Row


def slow_disk() -> None:
    """Each of its rows takes SLEEP seconds longer to read."""
    read = PackedDataset.__getitem__

    def read_slowly(dataset: PackedDataset, index: int) -> Row:
        time.sleep(float(os.environ["SLEEP"]))
        return read(dataset, index)

    PackedDataset.__getitem__ = read_slowly  # type: ignore[method-assign]


def other_node() -> None:
    """It runs in another directory, so relative paths mean other files."""
    os.chdir(os.environ["OTHER_NODE"])


def short_of_memory() -> None:
    """It may allocate HEADROOM bytes beyond what it has once everything is imported."""
    import megatron_in2.training.run  # noqa: F401

    limit = psutil.Process().memory_info().vms + int(os.environ["HEADROOM"])
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


if __name__ == "__main__":
    if os.environ.get("RANK") in os.environ.get("ODD_RANKS", "1").split(","):
        {"slow": slow_disk, "node": other_node, "memory": short_of_memory}[os.environ["ODD_RANK"]]()
    run_command(main)
