"""A rank imports without wandb, and the process is restored afterwards."""

import subprocess
import sys

import pytest

PROBE = """
import sys
from megatron_in2.parallel.imports import without_unused_imports
import torch
compiler = torch.compile
with without_unused_imports():
    import megatron.core.fusions.fused_bias_swiglu as fused
print("wandb.sdk" in sys.modules, torch.compile is compiler, "wandb" in sys.modules)
import wandb
print(wandb.__name__, type(fused.swiglu).__name__)
"""


def test_wandb_is_left_out_and_can_be_imported_later() -> None:
    pytest.importorskip("wandb")
    printed = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True, check=True
    ).stdout.split()
    assert printed[:4] == ["False", "True", "False", "wandb"]
    assert printed[4] == "function" or __import__("torch").cuda.is_available()
