"""A study by its command: a small version, and the claim on placement itself; slow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_in2.files import read_json, read_json_lines
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.study import load_study
from megatron_in2.lab.worlds.attempt_samples import ATTEMPT_WORLD
from tests.conftest import ROOT, RunTool


def _losses(checkpoints: Path) -> list[float]:
    lines = (line for _, line in read_json_lines(checkpoints / "metrics.jsonl"))
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_one_arm_learns_survives_a_kill_and_is_probed(tmp_path: Path, run_tool: RunTool) -> None:
    options = ("--quick", "--scale", 0.05, "--contexts", 3, "--arms", "in2", "--panels", "1e4")
    command = [sys.executable, ROOT / "tools" / "lab.py", "placement", *options]
    command += ["--home", tmp_path]
    home = tmp_path / "placement"
    short = home / "seed1" / "1e4" / "short" / "checkpoints"
    first = subprocess.Popen(
        list(map(str, command)), start_new_session=True, stdout=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 900  # it never takes so long
        while not (short / "metrics.jsonl").exists():
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()

    result = run_tool("lab", "placement", *options, "--home", tmp_path, timeout=1800)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("reused: already done") == 2  # materials and the copy phase
    copying = _losses(home / "seed1" / "1e4" / "copy" / "checkpoints")
    answering = _losses(short)
    assert (len(copying), len(answering)) == (70, 30)
    assert sum(copying[-5:]) / 5 < copying[0] - 0.4
    assert sum(answering[-5:]) / 5 < answering[0] - 1.0
    report = read_json(home / "scores" / "position" / "1e4" / "in2" / "report.json")
    assert report["probes"] == 48
    assert (home / "position.svg").is_file()
    assert "a  IN2 from the start" in (home / "table.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("study", "arm", "measure"),
    [
        ("self_correction", "unmasked", "corrected"),
        ("prompt_erasing", "erased", "prompted"),
        ("mixing", "lumpy-copies", "position"),
    ],
)
def test_a_small_version_of_a_study_runs(
    tmp_path: Path, run_tool: RunTool, study: str, arm: str, measure: str
) -> None:
    options = ("--quick", "--scale", 0.02, "--contexts", 2, "--arms", arm, "--processes", 1)
    result = run_tool("lab", study, *options, "--home", tmp_path, timeout=1800)
    assert result.returncode == 0, result.stdout + result.stderr
    home = tmp_path / study
    assert (home / f"{measure}.svg").is_file()
    assert load_study(study).text.arms[arm].title in (home / "table.md").read_text()
    seed = SeedFolder(home / "seed1")
    if study == "self_correction":
        samples = [line for _, line in read_json_lines(seed.drawn("1e4", "ends").samples(arm))]
        attempts = [part["text"] for each in samples for part in each["parts"][1::3]]
        assert 0 < len(samples) <= 48
        assert set(" ".join(attempts).split()) <= set(ATTEMPT_WORLD.words)
    if study == "mixing":
        steps = [
            line for _, line in read_json_lines(seed.checkpoints("1e4", arm) / "metrics.jsonl")
        ]
        trained = [line["answer_tokens"] for line in steps if "answer_tokens" in line]
        # Four turns of six steps: eight samples with questions in a step, or eight rows to copy.
        assert [tokens > 300 for tokens in trained] == [False, True, True, False, True, True]


@pytest.mark.slow
def test_placement_alone_decides(tmp_path: Path, run_tool: RunTool) -> None:
    options = ("--quick", "--arms", "in2", "ends", "--panels", "1e4", "--home", tmp_path)
    result = run_tool("lab", "placement", *options, timeout=1800)
    assert result.returncode == 0, result.stdout + result.stderr
    scores = tmp_path / "placement" / "scores" / "position" / "1e4"
    worst = {
        arm: min(depth["accuracy"] for depth in read_json(scores / arm / "report.json")["depths"])
        for arm in ("in2", "ends")
    }
    assert worst["in2"] > 0.85
    assert worst["ends"] < worst["in2"] - 0.3
