"""The optimizer in host memory takes the very steps of the one beside the weights."""

from pathlib import Path

import pytest

from tests.training.conftest import Train

EXACT = ("loss", "grad_norm", "consumed_rows")
OFFLOADED = "--optimizer.cpu_offload=true"


def _exact(metrics: dict[int, dict]) -> dict[int, tuple]:
    return {step: tuple(line[name] for name in EXACT) for step, line in metrics.items()}


def test_losses_are_bitwise_those_of_the_optimizer_beside_the_weights(
    tmp_path: Path, train: Train, imported: Path
) -> None:
    """Resumed with and without offloading too: a checkpoint does not tell which wrote it."""
    options = ("--runtime.dtype=bfloat16", "--data.validation=")
    start = (*options, f"--checkpoint.init_from={imported}")
    expected = _exact(train(tmp_path / "beside", *start))
    exit_soon = "--schedule.exit_after_steps=2"
    train(tmp_path / "run", *start, OFFLOADED, exit_soon)
    train(tmp_path / "run", *options, exit_soon)
    assert _exact(train(tmp_path / "run", *options, OFFLOADED)) == expected


@pytest.mark.slow
def test_offloading_over_data_parallel_ranks(tmp_path: Path, train: Train, imported: Path) -> None:
    options = ("--runtime.dtype=bfloat16", f"--checkpoint.init_from={imported}")
    expected = _exact(train(tmp_path / "beside", *options, nproc=2))
    assert _exact(train(tmp_path / "host", *options, OFFLOADED, nproc=2)) == expected
