"""``auto`` takes Transformer Engine only where it takes packed rows."""

from importlib import metadata
from types import SimpleNamespace

import pytest
import torch

from megatron_in2.errors import InputError
from megatron_in2.model import backend
from megatron_in2.model.backend import choose_backend

A100, ADA, HOPPER, BLACKWELL, TURING = (8, 0), (8, 9), (9, 0), (10, 0), (7, 5)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine whose CUDA, Transformer Engine and flash-attn report what the test says."""
    capability, flash_attn = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Some card")
    monkeypatch.setattr(backend, "HAVE_TE", True)

    def version(package: str) -> str:
        if package == "flash-attn" and flash_attn:
            return flash_attn
        raise metadata.PackageNotFoundError

    known = SimpleNamespace(version=version, PackageNotFoundError=metadata.PackageNotFoundError)
    monkeypatch.setattr(backend, "metadata", known)


@pytest.mark.parametrize(
    "machine",
    [(HOPPER, ""), (BLACKWELL, ""), (A100, "2.1.1"), (A100, "2.8.3.post1"), (ADA, "2.7.4")],
    indirect=True,
)
def test_it_is_taken_where_packed_rows_run(machine: None) -> None:
    assert choose_backend("auto") == choose_backend("transformer_engine") == "transformer_engine"
    assert choose_backend("torch") == "torch"


@pytest.mark.parametrize(
    ("machine", "lacking"),
    [
        ((A100, ""), "flash-attn >= 2.1.1, < 2.9 for packed rows on Some card"),
        ((A100, "2.1.0"), "flash-attn >= 2.1.1, < 2.9"),
        ((ADA, "2.9.0"), "flash-attn >= 2.1.1, < 2.9"),
        ((TURING, "2.8.0"), "an Ampere or newer GPU"),
    ],
    indirect=["machine"],
)
def test_it_is_left_alone_or_refused_where_they_do_not(machine: None, lacking: str) -> None:
    assert choose_backend("auto") == "torch"
    with pytest.raises(InputError, match=lacking) as refused:
        choose_backend("transformer_engine")
    assert "runtime.backend=torch" in str(refused.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU refuses")
def test_without_a_gpu_it_is_refused() -> None:
    assert choose_backend("auto") == "torch"
    with pytest.raises(InputError, match="needs a GPU"):
        choose_backend("transformer_engine")
