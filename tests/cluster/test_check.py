"""The check of a job's nodes: what it compares and names, and a real check on two ranks."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_in2.cluster.all_reduce import bus_bandwidth
from megatron_in2.cluster.findings import CheckConfig, RankFindings, Verdict
from megatron_in2.cluster.local import software_versions
from megatron_in2.cluster.verdict import different_software, judge
from megatron_in2.commands.cluster_check import main
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.parallel.rank import Rank
from tests.conftest import ROOT

NODES = ["node01", "node02", "node03"]
FIRST = Rank(index=0, world_size=6, local_index=0, local_world_size=2)


def _report(rank: int, **changes: object) -> RankFindings:
    report = RankFindings(rank, NODES[rank // 2], {"torch": "2.6", "code": "abc"}, [], [])
    return replace(report, **changes)


@pytest.fixture
def config(tmp_path: Path) -> CheckConfig:
    for rank in range(FIRST.world_size):
        (tmp_path / f".seen-by-rank-{rank}").touch()
    return CheckConfig(NODES, tmp_path, free_bytes=0, megabytes=1, timeout_seconds=60)


def test_sound_nodes_pass(config: CheckConfig) -> None:
    verdict = judge([_report(rank) for rank in range(6)], config, FIRST)
    assert verdict == Verdict(problems=[], faults=[], sick_nodes=[])


def test_silent_and_faulty_ranks_make_their_nodes_unfit(config: CheckConfig) -> None:
    reports = [_report(rank) for rank in (0, 1, 2)]
    reports += [_report(4, faults=["GPU 0 multiplies wrongly"]), _report(5)]
    verdict = judge(reports, config, FIRST)
    assert verdict.sick_nodes == ["node02", "node03"]
    assert verdict.faults == ["node02: rank 3 did not report", "node03: GPU 0 multiplies wrongly"]
    assert not verdict.problems


def test_a_problem_is_named_once_with_all_its_nodes(config: CheckConfig) -> None:
    reports = [_report(rank) for rank in range(6)]
    reports[2] = _report(2, problems=["no data"])
    reports[4] = _report(4, problems=["no data"])
    verdict = judge(reports, config, FIRST)
    assert verdict.problems == ["node02, node03: no data"]
    assert not verdict.sick_nodes


def test_a_directory_that_is_not_shared_is_found(
    config: CheckConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("megatron_in2.cluster.verdict.VISIBLE_SECONDS", 0.0)
    (config.folder / ".seen-by-rank-5").unlink()
    verdict = judge([_report(rank) for rank in range(6)], config, FIRST)
    (problem,) = verdict.problems
    assert problem.startswith("node03: ")
    assert "not the directory that the first node sees" in problem


def test_software_that_differs_from_most_nodes_is_named() -> None:
    reports = [_report(rank) for rank in range(6)]
    reports[3] = _report(3, software={"torch": "2.5", "code": "abc", "extra": "1"})
    reports[5] = _report(5, software={"code": "abd"})
    assert different_software(reports) == {
        "node02": "extra 1 (not elsewhere), torch 2.5 (2.6 elsewhere)",
        "node03": "code abd (abc elsewhere), torch is missing (2.6 elsewhere)",
    }


def test_versions_name_the_packages_and_the_code() -> None:
    versions = software_versions()
    assert {"torch", "megatron-core", "numpy", "python", "code"} <= set(versions)
    assert versions == software_versions()


def test_bus_bandwidth_counts_as_nccl_tests_do() -> None:
    assert bus_bandwidth(1000, 2.0, 2) == 500
    assert bus_bandwidth(1000, 1.0, 4) == 1500


def _check_on_two_nodes(
    folder: Path, packages: list[Path], options: list[str]
) -> list[subprocess.CompletedProcess[str]]:
    """Run the tool as two srun tasks, each with its own copy of the code."""
    common = {
        **os.environ,
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "1",
        "SLURM_LOCALID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(20000 + os.getpid() % 10000),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    running = []
    for rank, package in enumerate(packages):
        command = [sys.executable, str(ROOT / "tools" / "cluster_check.py"), "nodes", *options]
        running.append(
            subprocess.Popen(
                [*command, "--nodes=node01,node02", f"--sick-nodes={folder}/sick", "--megabytes=1"],
                env={**common, "SLURM_PROCID": str(rank), "PYTHONPATH": str(package)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    ended = []
    for process in running:
        output, errors = process.communicate(timeout=300)
        ended.append(subprocess.CompletedProcess(process.args, process.returncode, output, errors))
    return ended


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest dataset that the preprocessing makes."""
    folder = tmp_path_factory.mktemp("data")
    sample = {"id": "1", "kind": "short", "context": "A.", "question": "B?", "answer": "C"}
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    packing = PreprocessConfig(
        input=[folder / "samples.jsonl"],
        output_prefix=folder / "in2",
        tokenizer_model="mistral-v1",
        seq_length=2048,
    )
    preprocess(packing)
    return folder / "in2"


@pytest.fixture
def options(tmp_path: Path, dataset: Path) -> list[str]:
    (tmp_path / "run").mkdir()
    config = ["--config", str(ROOT / "configs" / "tiny.yaml")]
    return [*config, f"--data.train={dataset}", f"--checkpoint.dir={tmp_path / 'run'}"]


def test_the_plan_shows_the_trace_beside_its_one_line(
    options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for extra in ([], ["--trace"]):
        assert main(["plan", "--world-size=1", "--model.num_layers=1", *options, *extra]) is None
        output, errors = capsys.readouterr()
        assert re.fullmatch(r"0 \d+ \S+/run\n", output)
        assert ("checkpoint, GB   writes" in errors) == bool(extra)


def test_two_nodes_measure_their_all_reduce(tmp_path: Path, options: list[str]) -> None:
    ended = _check_on_two_nodes(tmp_path, [ROOT, ROOT], options)
    assert [process.returncode for process in ended] == [0, 0], ended
    assert "2 nodes, 2 ranks, all alike; all-reduce of 1 MiB over gloo" in ended[0].stdout
    assert not list((tmp_path / "run").iterdir())


def test_another_version_of_the_code_is_refused(tmp_path: Path, options: list[str]) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(ROOT / "megatron_in2", changed / "megatron_in2")
    with open(changed / "megatron_in2" / "errors.py", "a") as stream:
        stream.write("\nCHANGED = True\n")
    ended = _check_on_two_nodes(tmp_path, [ROOT, changed], options)
    assert ended[0].returncode == 2
    assert "code " in ended[0].stderr
    assert "elsewhere" in ended[0].stderr
    assert ended[1].returncode == 0, ended[1].stderr
    assert not (tmp_path / "sick").exists()


def test_a_silent_node_is_named_and_listed(tmp_path: Path, options: list[str]) -> None:
    ended = _check_on_two_nodes(tmp_path, [ROOT], [*options, "--timeout=5"])
    assert ended[0].returncode == 69
    assert "node02: rank 1 did not report" in ended[0].stderr
    assert (tmp_path / "sick").read_text() == "node02\n"
