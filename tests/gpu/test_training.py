"""The training command on the GPU against the CPU, and against itself."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

from tests.gpu.conftest import MODEL, STEPS, Run, Train
from tests.gpu.holder import all_memory_but

FLOAT32 = 1e-4  # relative; other orders of addition, through 20 steps of Adam
BFLOAT16 = 2e-2  # 8 bits of precision in weights' copies and activations
ATOMICS = 1e-3  # flash attention adds its gradients in any order
TRACED = 0.05  # of the allocator's peak
GIB = 2**30


@pytest.fixture(scope="module")
def on_cpu(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Float32 on the CPU: the reference."""
    return train(tmp_path_factory.mktemp("cpu") / "run", device="cpu", dtype="float32")


def test_float32_losses_are_those_of_the_cpu(on_cpu: Run, train: Train, tmp_path: Path) -> None:
    on_gpu = train(tmp_path / "run", dtype="float32")
    assert len(on_gpu.losses) == STEPS
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=FLOAT32)
    assert on_cpu.losses[-1] < on_cpu.losses[0]
    # The control: the losses of other steps are further apart than the bound.
    assert on_gpu.losses[1:] != pytest.approx(on_cpu.losses[:-1], rel=FLOAT32)


@pytest.mark.parametrize("samples", [1, 4])
def test_bfloat16_losses_are_near_float32(samples: int, train: Train, tmp_path: Path) -> None:
    exact = train(tmp_path / "exact", dtype="float32", samples=samples)
    rounded = train(tmp_path / "rounded", dtype="bfloat16", samples=samples)
    assert rounded.losses == pytest.approx(exact.losses, rel=BFLOAT16)


@pytest.mark.skipif(
    importlib.util.find_spec("transformer_engine") is None,
    reason="Transformer Engine is not installed",
)
def test_transformer_engine_trains_like_torch(train: Train, tmp_path: Path) -> None:
    ours = train(tmp_path / "torch", dtype="bfloat16")
    theirs = train(tmp_path / "engine", dtype="bfloat16", backend="transformer_engine")
    assert "backend transformer_engine" in theirs.output
    assert theirs.losses == pytest.approx(ours.losses, rel=BFLOAT16)


def test_a_resumed_run_continues(train: Train, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", dtype="bfloat16")
    train(tmp_path / "run", "--schedule.exit_after_steps=8", dtype="bfloat16")
    resumed = train(tmp_path / "run", dtype="bfloat16")
    assert "resuming from" in resumed.output
    assert resumed.losses == pytest.approx(whole.losses, rel=ATOMICS)


def test_a_step_of_the_cpu_continues_on_the_gpu(on_cpu: Run, train: Train, tmp_path: Path) -> None:
    train(tmp_path / "run", "--schedule.exit_after_steps=8", device="cpu", dtype="float32")
    resumed = train(tmp_path / "run", dtype="float32")
    assert resumed.losses == pytest.approx(on_cpu.losses, rel=FLOAT32)


def test_too_little_memory_shows_in_the_rehearsal(train: Train, tmp_path: Path) -> None:
    large = {**MODEL, "num_layers": 8, "hidden_size": 1024, "num_attention_heads": 16}
    large |= {"ffn_hidden_size": 3584, "max_position_embeddings": 16384}
    with all_memory_but(5 * GIB):
        failed = train(tmp_path / "run", dtype="bfloat16", samples=1, model=large)
    assert failed.code == 2, failed.errors
    (line,) = [each for each in failed.errors.splitlines() if "error: " in each]
    assert "is out of memory" in line
    assert "runtime.recompute=full" in line
    assert "Traceback" not in failed.errors
    assert failed.steps == []
    fits = train(tmp_path / "fits", "--schedule.steps=2", dtype="bfloat16", samples=1, model=large)
    assert fits.code == 0, fits.errors
    assert "rehearsal   |" in fits.output


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_the_traced_peak_is_the_allocators(recompute: str, train: Train, tmp_path: Path) -> None:
    large = {**MODEL, "num_layers": 8, "hidden_size": 1024, "num_attention_heads": 16}
    large |= {"ffn_hidden_size": 3584, "max_position_embeddings": 16384}
    options = {"dtype": "bfloat16", "samples": 1, "model": large, "recompute": recompute}
    traced = train(tmp_path / "traced", "--dry-run", "--trace", **options)
    assert traced.code == 0, traced.errors
    real = train(tmp_path / "run", "--schedule.steps=4", **options)
    assert real.code == 0, real.errors
    peak = max(line.get("memory_allocated_gib", 0.0) for line in real.steps)
    assert _traced_peak(traced.output) == pytest.approx(peak, rel=TRACED)


def _traced_peak(report: str) -> float:
    """Return the largest sum of the trace's table of phases, GiB."""
    phases = r"^(?:forward|backward|update) .*?(\d+\.\d+)$"
    found = [float(each) for each in re.findall(phases, report, re.MULTILINE)]
    assert len(found) == 3, report
    return max(found)


def test_what_the_log_says_of_the_card(train: Train, tmp_path: Path) -> None:
    run = train(tmp_path / "run", "--schedule.steps=2", dtype="bfloat16")
    assert run.code == 0, run.errors
    assert "attention by " in run.output
    assert torch.cuda.is_available()
