"""A rank that is slow, sees other files, or has too little memory is named with its host."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from megatron_in2.training.callbacks.rank_statistics import (
    RankStatistics,
    fullest,
    memory_in_use,
    name_stragglers,
    spread,
)
from megatron_in2.training.checks.agreement import describe_disagreement
from megatron_in2.training.step.own_work import OwnWork, stops_when_called
from tests.conftest import assert_refused
from tests.training.conftest import read_metrics

DRIVER = Path(__file__).with_name("odd_rank.py")
HOST = socket.gethostname()
RunOdd = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_odd(tmp_path: Path, base_config: dict) -> RunOdd:
    """Train with two ranks of which one has a defect."""

    def run(
        kind: str, *options: str, cwd: Path | None = None, changes: dict | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        config = {section: {**values} for section, values in base_config.items()}
        config["checkpoint"]["dir"] = str(tmp_path / "run")
        for section, values in (changes or {}).items():
            config[section] |= values
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(config))
        command = [sys.executable, str(DRIVER), "--config", str(path), "--nproc", "2", *options]
        return subprocess.run(
            command,
            env={**os.environ, "ODD_RANK": kind, **extra},
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run


def _reports(*seconds: float | None) -> list[RankStatistics]:
    return [
        RankStatistics(f"node{index}", each, {"resident": 1.0 + index})
        for index, each in enumerate(seconds)
    ]


def test_spread_is_largest_over_mean() -> None:
    assert spread([1.0, 1.0, 2.5]) == pytest.approx(2.5 / 1.5 - 1)
    assert spread([2.0]) == 0.0


def test_stragglers_are_named_slowest_first_from_the_threshold_on() -> None:
    reports = _reports(1.0, 1.3, 1.0, 1.5)  # mean 1.2
    assert name_stragglers(reports, 0.3) is None
    named = name_stragglers(reports, 0.05)
    assert named is not None
    assert named.index("rank 3 on node3 1.5 s") < named.index("rank 1 on node1 1.3 s")
    assert "rank 0" not in named
    assert "mean of all 1.2 s" in named
    assert name_stragglers(_reports(None, None), 0.1) is None
    many = name_stragglers(_reports(*[1.0] * 90, *[2.0] * 10), 0.1)
    assert many is not None
    assert "and 2 more" in many


def test_own_work_ends_where_the_gradients_are_ready_and_leaves_out_the_first_step() -> None:
    work = OwnWork(torch.device("cpu"))
    finalize = stops_when_called(work, lambda value, *, twice: value * 2 if twice else value)
    finalize(1, twice=False)  # outside a step
    for pause in (0.2, 0.05, 0.07):
        work.start()
        time.sleep(pause)
        assert finalize(3, twice=True) == 6
        time.sleep(0.6)  # waiting for the others
    mean = work.take_mean_seconds()
    assert mean is not None
    assert 0.06 <= mean < 0.5  # with the wait it would be above 0.66
    assert work.take_mean_seconds() is None


def test_memory_is_that_of_the_fullest_rank() -> None:
    assert fullest(_reports(1.0, 1.0, 1.0)) == {"resident": 3.0}
    before = memory_in_use(torch.device("cpu"))["resident"]
    held = torch.ones(2**27)  # half a GiB
    assert memory_in_use(torch.device("cpu"))["resident"] > before + 0.4
    del held


SLOW = {
    "data": {"validation": ""},
    "schedule": {"exit_after_steps": 4},
    "logging": {"interval_steps": 4, "straggler_threshold": 0.2},
}


@pytest.mark.slow  # it compares times: a busy machine can hide the slow rank
def test_a_slow_rank_is_named(run_odd: RunOdd, tmp_path: Path) -> None:
    result = run_odd("slow", changes=SLOW, SLEEP="0.6")
    assert result.returncode == 0, result.stderr
    (warning,) = [line for line in result.stdout.splitlines() if "WARNING" in line]
    assert f"step      4 | WARNING slow ranks, own work a step: rank 1 on {HOST}" in warning
    assert "rank 0" not in warning
    metrics = read_metrics(tmp_path / "run")
    assert "rank_spread" not in metrics[1]  # the first step, which is left out
    assert metrics[4]["slowest_rank"] == 1
    assert metrics[4]["rank_spread"] > 0.2
    # Both ranks wait for the slow one's two rows, so the time of the step does not differ.
    assert metrics[4]["seconds"] > 1.2


@pytest.mark.slow
def test_ranks_that_are_all_slow_are_not_named(run_odd: RunOdd) -> None:
    result = run_odd("slow", changes=SLOW, SLEEP="0.6", ODD_RANKS="0,1")
    assert result.returncode == 0, result.stderr
    assert "slowest rank +" in result.stdout
    assert "WARNING" not in result.stdout


@pytest.mark.slow
def test_a_rank_that_sees_other_data_is_named(
    run_odd: RunOdd, dataset: Path, tmp_path: Path
) -> None:
    """Two nodes with disks of their own: the same path, another data set of the same shape."""
    for node, source in (("node0", dataset), ("node1", Path(f"{dataset}_valid"))):
        (tmp_path / node).mkdir()
        for file in source.parent.glob(f"{source.name}[._]*"):
            part = file.name.removeprefix(source.name)
            if not part.startswith("_valid"):
                shutil.copy(file, tmp_path / node / f"in2{part}")
    changes = {"data": {"train": "in2", "validation": ""}}
    own = tmp_path / "node0"
    result = run_odd("node", cwd=own, changes=changes, OTHER_NODE=str(tmp_path / "node1"))
    assert_refused(result, "data.train=in2", f"rank 1 on {HOST} sees", "give every node the same")
    assert "rank 0" not in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rank_that_sees_no_data_is_named(run_odd: RunOdd, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    changes = {"data": {"train": dataset.name, "validation": ""}}
    result = run_odd(
        "node", cwd=dataset.parent, changes=changes, OTHER_NODE=str(tmp_path / "empty")
    )
    assert_refused(result, f"rank 1 on {HOST}: no packed dataset at in2")


def test_a_view_is_compared_with_that_of_most_ranks() -> None:
    same = ("node1", {"data.train": "a" * 64, "configuration": "c"})
    other = ("node2", {"data.train": "b" * 64, "configuration": "c"})
    assert describe_disagreement([same, same]) is None
    found = describe_disagreement([other, same, same])
    assert found is not None
    assert found.startswith(f"data.train: rank 0 on node2 sees {'b' * 12}; the other ranks see aaa")
    assert "configuration" not in found


# Feed-forward activations of one row take some 2.5 GB here, all that is built before a third of it.
WIDE = {"num_layers": 1, "ffn_hidden_size": 200_000}


def test_out_of_memory_shows_in_the_rehearsal(run_odd: RunOdd, tmp_path: Path) -> None:
    option = "--runtime.rehearsal=always"
    result = run_odd("memory", option, changes={"model": WIDE}, HEADROOM=str(1600 * 2**20))
    assert_refused(
        result,
        f"rank 1 on {HOST} is out of memory",
        "can't allocate memory",
        "runtime.recompute=full",
        "raise parallel.context (now 1), tensor (now 1)",
    )
    assert "starting from fresh weights" in result.stdout
    assert "step " not in result.stdout.split("fresh weights")[1]
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == ""
