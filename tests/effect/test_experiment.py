"""The experiment by its command: a small version, and the claim itself in the slow tests."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from megatron_in2.effect.arms import ARMS, DATASETS, RUNS
from megatron_in2.effect.config import EffectConfig
from megatron_in2.effect.experiment import CONFIGS
from megatron_in2.errors import InputError
from megatron_in2.files import read_json, read_json_lines
from tests.conftest import ROOT, RunTool


def _losses(checkpoints: Path) -> list[float]:
    lines = (line for _, line in read_json_lines(checkpoints / "metrics.jsonl"))
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_one_arm_learns_survives_a_kill_and_is_probed(tmp_path: Path, run_tool: RunTool) -> None:
    options = ("--quick", "--scale", 0.05, "--contexts", 3, "--arms", "in2", "--thetas", "1e4")
    command = [sys.executable, ROOT / "tools" / "effect.py", *options, "--home", tmp_path]
    short = tmp_path / "seed1" / "1e4" / "short" / "checkpoints"
    first = subprocess.Popen(
        list(map(str, command)), start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 240
        while not (short / "metrics.jsonl").exists():
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()

    result = run_tool("effect", *options, "--home", tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("reused: already done") == 2  # materials and the copy phase
    copying = _losses(tmp_path / "seed1" / "1e4" / "copy" / "checkpoints")
    answering = _losses(short)
    assert (len(copying), len(answering)) == (70, 30)
    assert sum(copying[-5:]) / 5 < copying[0] - 0.4
    assert sum(answering[-5:]) / 5 < answering[0] - 1.0
    report = read_json(tmp_path / "scores" / "1e4" / "in2" / "report.json")
    assert report["probes"] == 48
    assert (tmp_path / "figure.svg").is_file()
    assert ARMS["in2"].title in (tmp_path / "table.md").read_text()


@pytest.mark.slow
def test_placement_alone_decides(tmp_path: Path, run_tool: RunTool) -> None:
    options = ("--quick", "--arms", "in2", "ends", "--thetas", "1e4", "--home", tmp_path)
    result = run_tool("effect", *options, timeout=1800)
    assert result.returncode == 0, result.stdout + result.stderr
    worst = {
        arm: min(
            depth["accuracy"]
            for depth in read_json(tmp_path / "scores" / "1e4" / arm / "report.json")["depths"]
        )
        for arm in ("in2", "ends")
    }
    assert worst["in2"] > 0.85
    assert worst["ends"] < worst["in2"] - 0.3


def test_an_arm_trains_only_what_it_needs() -> None:
    assert EffectConfig(arms=("in2",)).runs == ["copy", "short", "in2-medium", "in2"]
    assert EffectConfig(arms=("control",)).runs == [
        *("copy", "short", "ends-medium", "ends", "control")
    ]
    assert EffectConfig().runs == list(RUNS)


@pytest.mark.parametrize("name", list(RUNS))
def test_each_run_starts_from_an_earlier_one_and_sees_almost_no_sample_twice(name: str) -> None:
    run = RUNS[name]
    dataset, phase = (
        DATASETS[run.data],
        yaml.safe_load((CONFIGS / f"{run.phase}.yaml").read_text()),
    )
    model = yaml.safe_load((CONFIGS / "model.yaml").read_text())
    assert not run.start or list(RUNS).index(run.start) < list(RUNS).index(name)
    assert phase["data"]["seq_length"] == dataset.row_tokens
    rows = phase["schedule"]["steps"] * model["schedule"]["global_batch_rows"]
    assert rows <= 1.01 * dataset.samples * dataset.tokens / dataset.row_tokens


@pytest.mark.parametrize(
    ("field", "value"), [("seeds", 0), ("contexts", 0), ("scale", 1.5), ("arms", ("x",))]
)
def test_impossible_options_are_refused(field: str, value: object) -> None:
    with pytest.raises(InputError, match=f"--{field}"):
        EffectConfig(**{field: value})
