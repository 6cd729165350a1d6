"""The registry: its families, and that it works without torch."""

import subprocess
import sys

import pytest

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.architectures.registry import ARCHITECTURES, architecture_of
from megatron_in2.errors import InputError


def test_families_are_found_by_their_model_type() -> None:
    for name, family in ARCHITECTURES.items():
        assert family.model_type == name
        assert architecture_of(ModelConfig(architecture=name)) is family


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"model\.architecture='mixtral': use mistral"):
        architecture_of(ModelConfig(architecture="mixtral"))


def test_sizes_are_known_without_torch() -> None:
    """Commands check configurations and count parameters before they import torch."""
    code = (
        "import sys; from megatron_in2.architectures.registry import parameter_count; "
        "from megatron_in2.architectures.config import ModelConfig; "
        "print(parameter_count(ModelConfig()), {'torch', 'megatron.core'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["7241732096", "set()"]
