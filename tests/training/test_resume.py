"""Stopped, killed, moved to another layout: a resumed run equals the uninterrupted one."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.errors import EXIT_REQUEUE
from tests.conftest import ROOT, RunTool, assert_refused
from tests.training.conftest import STEPS, Train, read_metrics

EXACT = ("loss", "grad_norm", "learning_rate", "answer_tokens", "consumed_rows")


def _exact(metrics: dict[int, dict]) -> dict[int, tuple]:
    return {step: tuple(line[name] for name in EXACT) for step, line in metrics.items()}


@pytest.mark.slow
def test_a_resumed_run_is_bitwise_the_uninterrupted_one(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    first = train(tmp_path / "run", "--schedule.exit_after_steps=2")
    assert sorted(first) == [1, 2]
    resumed = train(tmp_path / "run")
    assert _exact(resumed) == _exact(reference[1])
    steps = [path.name for path in complete_steps(tmp_path / "run")]
    assert steps == ["iter_0000002", f"iter_{STEPS:07d}"]


def test_another_layout_continues_to_tolerance(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    train(tmp_path / "run", "--schedule.exit_after_steps=3")
    options = ("--parallel.tensor=2", "--parallel.sequence=true")
    resumed = train(tmp_path / "run", *options, nproc=2)
    for step in range(4, STEPS + 1):
        assert resumed[step]["loss"] == pytest.approx(reference[1][step]["loss"], rel=1e-5)
        expected = reference[1][step]["grad_norm"]
        assert resumed[step]["grad_norm"] == pytest.approx(expected, rel=1e-5)


def _start(config: Path, nproc: int) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "--config", str(config)]
    return subprocess.Popen(
        [*command, "--nproc", str(nproc), "--checkpoint.interval_steps=2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _wait_for_step(folder: Path, step: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if max(read_metrics(folder), default=0) >= step:
                return
        except (OSError, ValueError):
            pass
        time.sleep(0.02)
    pytest.fail(f"step {step} was not reached")


def test_a_killed_run_resumes_bitwise(
    tmp_path: Path,
    write_config: Callable[[Path], Path],
    train: Train,
    reference: tuple[Path, dict],
) -> None:
    folder = tmp_path / "run"
    run = _start(write_config(folder), nproc=1)
    _wait_for_step(folder, 5)  # the save of step 4 begins by completing that of step 2
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert complete_steps(folder)
    assert _exact(train(folder)) == _exact(reference[1])


def test_sigterm_saves_and_asks_to_be_requeued(
    tmp_path: Path,
    write_config: Callable[[Path], Path],
    train: Train,
    reference: tuple[Path, dict],
) -> None:
    folder = tmp_path / "run"
    run = _start(write_config(folder), nproc=2)
    _wait_for_step(folder, 1)
    run.send_signal(signal.SIGTERM)
    output, _ = run.communicate(timeout=120)
    assert run.returncode == EXIT_REQUEUE, output
    done = max(read_metrics(folder))
    assert done < STEPS
    assert complete_steps(folder)[-1].name == f"iter_{done:07d}"
    resumed = train(folder, nproc=2)
    for step in range(1, STEPS + 1):
        assert resumed[step]["loss"] == pytest.approx(reference[1][step]["loss"], rel=1e-5)


@pytest.mark.slow
def test_an_incomplete_checkpoint_is_not_used(
    tmp_path: Path, train: Train, reference: tuple[Path, dict]
) -> None:
    folder = tmp_path / "run"
    train(folder, "--schedule.exit_after_steps=4", "--checkpoint.interval_steps=2")
    (folder / "iter_0000004" / "complete.json").unlink()
    assert _exact(train(folder)) == _exact(reference[1])


def test_a_finished_run_does_nothing_more(reference: tuple[Path, dict], train: Train) -> None:
    folder, metrics = reference
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.distcp")}
    assert train(folder) == metrics
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.distcp")} == before


def test_changes_are_reported_and_another_function_is_refused(
    reference: tuple[Path, dict],
    tmp_path: Path,
    run_tool: RunTool,
    write_config: Callable[[Path], Path],
) -> None:
    folder = shutil.copytree(reference[0], tmp_path / "run")
    options = ("--config", write_config(folder), "--optimizer.lr=0.004", "--model.rope_theta=3e4")
    assert_refused(
        run_tool("train", *options),
        "resumed with another model.rope_theta=30000.0 (saved with 10000.0)",
        "checkpoint.allow_changed_model=true",
    )
    result = run_tool("train", *options, "--checkpoint.allow_changed_model=true")
    assert result.returncode == 0, result.stderr
    notes = [line for line in result.stdout.splitlines() if line.startswith("NOTE ")]
    assert notes == [
        "NOTE resumed with another model.rope_theta=30000.0 (saved with 10000.0)",
        "NOTE resumed with another optimizer.lr=0.004 (saved with 0.005)",
        f"NOTE resumed with another checkpoint.dir={folder} (saved with {reference[0]})",
        "NOTE resumed with another checkpoint.allow_changed_model=True (saved with False)",
        f"NOTE the run is finished: step {STEPS} is in {folder / f'iter_{STEPS:07d}'}; "
        "nothing is trained",
    ]


def test_the_optimizers_step_count_survives(reference: tuple[Path, dict]) -> None:
    state = json.loads((complete_steps(reference[0])[-1] / "state.json").read_text())
    assert state["step"] == STEPS
    assert state["consumed_rows"] == 4 * STEPS


def _run_and_kill(config: Path, nproc: int, options: tuple[str, ...], step: int) -> None:
    """Kill all processes of a run once a step is done, perhaps during a save."""
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "--config", str(config)]
    folder = Path(yaml.safe_load(config.read_text())["checkpoint"]["dir"])
    run = subprocess.Popen(
        [*command, "--nproc", str(nproc), "--checkpoint.interval_steps=1", *options],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    _wait_for_step(folder, step)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert complete_steps(folder)


@pytest.mark.slow
def test_data_parallel_ranks_that_are_killed_resume_bitwise(
    tmp_path: Path, write_config: Callable[[Path], Path], train: Train
) -> None:
    whole = _exact(train(tmp_path / "whole", nproc=4))
    for step in (3, 5):  # the save of step 2 begins by completing that of step 1
        _run_and_kill(write_config(tmp_path / "run"), 4, (), step)
    assert _exact(train(tmp_path / "run", nproc=4)) == whole


@pytest.mark.slow
def test_killed_in_one_layout_after_another(
    tmp_path: Path,
    write_config: Callable[[Path], Path],
    train: Train,
    reference: tuple[Path, dict],
) -> None:
    layouts = {
        3: (2, ("--parallel.tensor=2", "--parallel.sequence=true")),
        4: (4, ()),
        5: (2, ("--parallel.pipeline=2",)),
    }
    folder = tmp_path / "run"
    for step, (nproc, options) in layouts.items():
        _run_and_kill(write_config(folder), nproc, options, step)
    metrics = train(folder, "--parallel.context=2", nproc=2)
    for step in range(1, STEPS + 1):
        for name in ("loss", "grad_norm"):
            assert metrics[step][name] == pytest.approx(reference[1][step][name], rel=1e-5)


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(
    tmp_path: Path, write_config: Callable[[Path], Path], train: Train
) -> None:
    """Across an epoch's end, some of them during a save: every step bitwise the same."""
    options = ("--schedule.steps=40", "--checkpoint.interval_steps=1")
    expected = _exact(train(tmp_path / "whole", *options))
    folder = tmp_path / "killed"
    config = write_config(folder)
    chance = random.Random(0)
    command = [sys.executable, str(ROOT / "tools" / "train.py"), "--config", str(config), *options]
    kills = 0
    while kills < 10:
        run = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        before = max(read_metrics(folder), default=0) if folder.exists() else 0
        _wait_for_step(folder, min(before + 2, 40))
        time.sleep(chance.uniform(0, 0.5))
        if run.poll() is None:
            os.killpg(run.pid, signal.SIGKILL)
            kills += 1
        run.wait()
        if max(read_metrics(folder)) >= 40:
            break
    assert kills == 10
    assert _exact(train(folder, *options)) == expected
    assert expected[40][-1] > len_of_epoch(config)


def len_of_epoch(config: Path) -> int:
    """Rows of the training data that a config names."""
    prefix = Path(yaml.safe_load(config.read_text())["data"]["train"])
    return int(json.loads(prefix.with_name(f"{prefix.name}.json").read_text())["rows"])
