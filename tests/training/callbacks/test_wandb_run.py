"""Weights & Biases with the real package, offline: one run for all starts."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import RunTool, assert_refused
from tests.training.callbacks.wandb_files import needs_wandb, read_offline_run
from tests.training.conftest import STEPS, Train, read_metrics

PROJECT = "--logging.wandb_project=in2"


@needs_wandb
@pytest.mark.slow
def test_a_restart_continues_the_same_run(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = tmp_path / "run"
    train(folder, PROJECT, "--schedule.exit_after_steps=2", nproc=2)
    train(folder, PROJECT)
    starts = [read_offline_run(each) for each in sorted((folder / "wandb").glob("offline-run-*"))]
    assert len(starts) == 2
    assert starts[0][0] == starts[1][0] == (folder / "wandb_run_id").read_text()
    assert {project for _, project, _, _ in starts} == {"in2"}
    assert starts[0][2]["optimizer"]["lr"] == 5e-3
    expected = read_metrics(folder)
    losses = [
        {line["step"]: line["loss"] for line in history if "loss" in line}
        for _, _, _, history in starts
    ]
    assert [sorted(each) for each in losses] == [[1, 2], list(range(3, STEPS + 1))]
    assert losses[0] | losses[1] == {step: line["loss"] for step, line in expected.items()}
    validated = [line for line in starts[0][3] if "validation_loss" in line]
    assert [line["step"] for line in validated] == [0]


@needs_wandb
def test_without_a_login_the_run_is_refused_with_the_remedy(
    tmp_path: Path,
    run_tool: RunTool,
    write_config: Callable[[Path], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = run_tool("train", "--config", write_config(tmp_path / "run"), PROJECT)
    assert_refused(result, "logging.wandb_project=in2", "wandb login", "WANDB_MODE=offline")


def test_wandb_that_is_not_installed_is_refused(
    tmp_path: Path, write_config: Callable[[Path], Path]
) -> None:
    """An interpreter in which wandb cannot be imported; refused before a rank starts."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['wandb'] = None\n")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    tool = Path(__file__).parents[3] / "tools" / "train.py"
    config = write_config(tmp_path / "run")
    result = subprocess.run(
        [sys.executable, str(tool), "--config", str(config), PROJECT, "--nproc", "2"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert_refused(result, "logging.wandb_project=in2", "pip install wandb")
    assert not (tmp_path / "run").exists()
