"""``sbatch slurm/film7b.sh`` on a real Slurm of virtual nodes, one rank a node, on the CPU."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import yaml

from megatron_in2.checkpoint.folder import complete_steps, read_model_config
from megatron_in2.tokenizers.base import Tokenizer
from tests.conftest import ROOT
from tests.families import save_model
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import THREADS, Job, Submit
from tests.training.conftest import Train, read_metrics

TENSOR_PARALLEL = ("--parallel.tensor=2", "--parallel.sequence=true", "--data.validation=")
LONG = ("--schedule.steps=60", "--checkpoint.interval_steps=10", *TENSOR_PARALLEL)
SCRIPTS = sorted(str(path.relative_to(ROOT / "slurm")) for path in ROOT.glob("slurm/**/*.sh"))
WriteConfig = Callable[[Path], Path]


def _wait_for_step(job: Job, folder: Path, step: int) -> None:
    def is_reached() -> bool:
        try:
            return max(read_metrics(folder), default=0) >= step
        except (OSError, ValueError):
            return False

    job.cluster.wait_for(is_reached, f"step {step}\n{job.log}")


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, train: Train) -> dict[int, dict]:
    """The metrics of the long run on four ranks, without Slurm and never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", THREADS)
        return train(tmp_path_factory.mktemp("uninterrupted") / "run", *LONG, nproc=4)


def assert_same_losses(folder: Path, expected: dict[int, dict]) -> None:
    """Bitwise."""
    metrics = read_metrics(folder)
    assert sorted(metrics) == sorted(expected)
    for name in ("loss", "grad_norm", "consumed_rows"):
        found = {step: (line[name], expected[step][name]) for step, line in metrics.items()}
        assert all(ours == theirs for ours, theirs in found.values()), (name, found)


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_are_valid_bash(script: str) -> None:
    path = ROOT / "slurm" / script
    subprocess.run(["bash", "-n", path], check=True)
    assert os.access(path, os.X_OK) == path.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_has_no_complaint(script: str) -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    command = [shellcheck, "--external-sources", f"slurm/{script}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "nodes", [pytest.param(4, id="four"), pytest.param(16, id="sixteen", marks=pytest.mark.slow)]
)
def test_all_nodes_train_to_the_end(
    nodes: int, submit: Submit, tmp_path: Path, write_config: WriteConfig, train: Train
) -> None:
    options = ("--schedule.global_batch_rows=8", "--schedule.steps=3")
    folder = tmp_path / "run"
    job = submit(nodes, *TENSOR_PARALLEL, *options, IN2_CONFIG=write_config(folder))
    assert job.finish() == "COMPLETED 0:0", job.log
    assert f"{nodes} nodes, {nodes} ranks, all alike; all-reduce of 64 MiB over gloo" in job.log
    assert f"TP2 PP1 CP1 DP{nodes // 2} SP" in job.log
    assert [step.name for step in complete_steps(folder)] == ["iter_0000003"]
    alone = train(tmp_path / "alone", *options)
    metrics = read_metrics(folder)
    assert sorted(metrics) == sorted(alone) == [1, 2, 3]
    for step, line in metrics.items():
        assert line["loss"] == pytest.approx(alone[step]["loss"], rel=1e-5)
    assert len(list((folder / "slurm" / str(job.number)).glob("train-node-*.log"))) == nodes

    config = write_config(folder)
    again = submit(2, *TENSOR_PARALLEL, *options, IN2_CONFIG=config, IN2_TRACE="1")
    assert again.finish() == "COMPLETED 0:0"
    assert re.search(r"^reduce_scatter +tensor +2 ", again.log, re.MULTILINE)  # it was traced
    assert "the run is finished: step 3 of 3" in again.log
    assert "start 1: 2 ranks" in again.log


def test_a_requeued_run_continues(
    submit: Submit,
    tmp_path: Path,
    write_config: WriteConfig,
    train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    job = submit(2, *LONG, IN2_CONFIG=write_config(folder))
    _wait_for_step(job, folder, 2)
    job.cluster.run("scontrol", "requeue", str(job.number))
    assert job.finish() == "COMPLETED 0:0", job.log
    assert job.restarts == 1
    assert "SIGTERM: the ranks save and end" in job.log
    assert "start 2: 2 ranks" in job.log
    assert f"resuming from {folder}/iter_" in job.log
    monkeypatch.setenv("OMP_NUM_THREADS", THREADS)
    assert_same_losses(folder, train(tmp_path / "uninterrupted", *LONG, nproc=2))


def _assert_refused(job: Job, *words: str) -> None:
    assert job.finish() == "FAILED 2:0", job.log
    assert job.restarts == 0
    assert "tokens/s" not in job.log
    for word in words:
        assert word in job.log


def test_a_bad_configuration_is_not_requeued(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    config = write_config(tmp_path / "run")
    jobs = [
        submit(1, "--optimizer.lr=fast", IN2_CONFIG=config),
        submit(3, "--parallel.tensor=2", IN2_CONFIG=config),
        submit(1, IN2_CONFIG=config, IN2_DATA="/absent/in2"),
    ]
    _assert_refused(jobs[0], "optimizer.lr", "nothing is requeued")
    _assert_refused(jobs[1], "world size 3 does not fit")
    _assert_refused(jobs[2], "no packed dataset at /absent/in2")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_data_missing_on_one_node_are_named(
    submit: Submit, tmp_path: Path, write_config: WriteConfig, dataset: Path
) -> None:
    for node in ("node01", "node03"):
        shutil.copytree(dataset.parent, tmp_path / node)
    # The name is replaced on each node; only node02 lacks its copy.
    data = f"{tmp_path}/$SLURMD_NODENAME/in2"
    options = ("--nodelist=node[01-03]",)
    config = write_config(tmp_path / "run")
    rows = "--schedule.global_batch_rows=3"
    job = submit(3, rows, "--data.validation=", sbatch=options, IN2_CONFIG=config, IN2_DATA=data)
    _assert_refused(job, f"node02: no packed dataset at {tmp_path}/node02/in2")
    assert "node01: no packed" not in job.log
    assert "node03: no packed" not in job.log


@pytest.mark.slow
def test_of_a_job_array_on_one_output_one_task_trains(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    folder = tmp_path / "run"
    options = ("--data.validation=", "--schedule.steps=20", "--checkpoint.interval_steps=5")
    array = ("--array=0-1", f"--output={tmp_path}/task-%a.out")
    job = submit(1, *options, sbatch=array, IN2_CONFIG=write_config(folder))
    job.cluster.wait_for(lambda: len(_array_states(job)) == 2, "the end of both tasks")
    assert sorted(_array_states(job)) == ["COMPLETED 0:0", "FAILED 2:0"]
    logs = [(tmp_path / f"task-{task}.out").read_text() for task in (0, 1)]
    assert sum(f"checkpoint.dir={folder} is in use by process" in log for log in logs) == 1
    assert sorted(read_metrics(folder)) == list(range(1, 21))
    assert "Traceback" not in "".join(logs)


def _array_states(job: Job) -> list[str]:
    """State and exit code of the array's tasks that have ended."""
    lines = job.cluster.run("scontrol", "show", "job", "--oneliner", str(job.number)).splitlines()
    found = [re.search(r"JobState=(\S+) .*ExitCode=(\S+)", line) for line in lines if line]
    states = [f"{match[1]} {match[2]}" for match in found if match]
    return [state for state in states if state.startswith(("COMPLETED", "FAILED"))]


@pytest.mark.slow
def test_the_time_limit_saves_and_requeues(
    submit: Submit, tmp_path: Path, write_config: WriteConfig, uninterrupted: dict[int, dict]
) -> None:
    folder = tmp_path / "run"
    # Slurm sends the early signal up to a minute before it is due: the run is slowed down so
    # that the signal comes midway also on a fast machine.
    limit = ("--time=3", "--signal=B:USR1@90")
    job = submit(4, *LONG, sbatch=limit, IN2_CONFIG=write_config(folder))
    _wait_for_step(job, folder, 2)
    _suspend_until(job, lambda: "SIGUSR1: the ranks save and end" in job.log)
    assert job.finish() == "COMPLETED 0:0", job.log
    assert job.restarts >= 1
    assert "requeueing" in job.log
    assert f"resuming from {folder}/iter_" in job.log
    assert_same_losses(folder, uninterrupted)


def _suspend_until(job: Job, condition: Callable[[], bool]) -> None:
    """Stop one rank, so that no step ends, until something has happened."""
    (rank,) = _ranks(job, "node02")
    rank.suspend()
    try:
        job.cluster.wait_for(condition, f"what the rank waits for\n{job.log}")
    finally:
        rank.resume()


def _ranks(job: Job, node: str) -> list[psutil.Process]:
    """The processes that train on a node: those started by rank.sh, not what they start."""
    return [
        process
        for process in job.cluster.processes()
        if process.environ().get("SLURMD_NODENAME") == node
        and any(word.endswith("train.py") for word in process.cmdline())
        and "rank.sh" in " ".join(process.parent().cmdline())
        and "rank.sh" not in " ".join(process.cmdline())
    ]


@pytest.mark.slow
def test_a_killed_rank_is_named_and_the_run_continues(
    submit: Submit, tmp_path: Path, write_config: WriteConfig, uninterrupted: dict[int, dict]
) -> None:
    folder = tmp_path / "run"
    job = submit(4, *LONG, IN2_CONFIG=write_config(folder), sbatch=("--nodelist=node[01-04]",))
    _wait_for_step(job, folder, 11)
    (rank,) = _ranks(job, "node03")
    rank.kill()
    assert job.finish() == "COMPLETED 0:0", job.log
    assert "rank 2 on node03 was killed by SIGKILL" in job.log
    assert "the ranks start again in this allocation, on node01 node02 node03 node04" in job.log
    assert job.restarts == 0
    assert_same_losses(folder, uninterrupted)


@pytest.mark.slow
def test_a_lost_node_is_replaced(
    cluster: SlurmCluster,
    submit: Submit,
    tmp_path: Path,
    write_config: WriteConfig,
    uninterrupted: dict[int, dict],
) -> None:
    folder = tmp_path / "run"
    job = submit(4, *LONG, IN2_CONFIG=write_config(folder))
    _wait_for_step(job, folder, 11)
    nodes = cluster.run("scontrol", "show", "hostnames", job.fields["NodeList"]).split()
    lost = nodes[2]
    try:
        cluster.kill_node(lost)
        assert job.finish() == "COMPLETED 0:0", job.log
        assert job.restarts >= 1
        assert lost not in cluster.run("scontrol", "show", "hostnames", job.fields["NodeList"])
        assert f"lost: {lost} is" in job.log
        assert_same_losses(folder, uninterrupted)
    finally:
        cluster.start_node(lost)


@pytest.mark.slow
def test_a_spare_node_takes_the_place_of_a_lost_one(
    cluster: SlurmCluster,
    submit: Submit,
    tmp_path: Path,
    write_config: WriteConfig,
    uninterrupted: dict[int, dict],
) -> None:
    folder = tmp_path / "run"
    # Otherwise Slurm requeues the job as soon as it takes the node for lost (here after 20 s).
    options = {"sbatch": ("--no-kill",), "IN2_NODES": 4}
    job = submit(5, *LONG, IN2_CONFIG=write_config(folder), **options)
    _wait_for_step(job, folder, 11)
    nodes = cluster.run("scontrol", "show", "hostnames", job.fields["NodeList"]).split()
    try:
        cluster.kill_node(nodes[2])
        assert job.finish() == "COMPLETED 0:0", job.log
        assert "5 nodes, 5 ranks, all alike" in job.log  # the spare one is checked too
        assert f"lost: {nodes[2]} does not answer" in job.log
        left = " ".join(node for node in nodes if node != nodes[2])
        assert f"the ranks start again in this allocation, on {left}" in job.log
        assert job.restarts == 0
        assert_same_losses(folder, uninterrupted)
    finally:
        cluster.start_node(nodes[2])


@pytest.mark.slow
def test_an_unfit_node_is_excluded(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    # On the node of rank 1 of the first start, the check cannot run.
    python, sick = tmp_path / "python", tmp_path / "sick"
    python.write_text(
        "#!/bin/bash\n"
        "if [ $2 = nodes ]; then\n"
        f"    [ $SLURM_PROCID = 0 ] || [ -e {sick} ] || echo $SLURMD_NODENAME >{sick}\n"
        f'    [ $SLURM_PROCID = 0 ] || [ "$(<{sick})" != $SLURMD_NODENAME ] || exit 1\n'
        "fi\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    options = ("--data.validation=", "--schedule.steps=2")
    job = submit(2, *options, IN2_CONFIG=write_config(tmp_path / "run"), IN2_PYTHON=python)
    assert job.finish() == "COMPLETED 0:0", job.log
    node = sick.read_text().strip()
    assert job.restarts == 1
    assert f"rank 1 on {node} ended first, with exit code 1" in job.log
    assert f"excluding {node}" in job.log
    assert job.fields["ExcNodeList"] == node


@pytest.mark.slow
def test_a_crash_loop_ends(submit: Submit, tmp_path: Path, write_config: WriteConfig) -> None:
    broken = tmp_path / "python"
    broken.write_text(f'#!/bin/bash\n[[ $1 = *train.py ]] && exit 9\nexec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    config = write_config(tmp_path / "run")
    job = submit(1, "--data.validation=", IN2_CONFIG=config, IN2_PYTHON=broken, IN2_MAX_REQUEUES=2)
    assert job.finish() == "FAILED 1:0", job.log
    # Once more in the same allocation, then in another one.
    assert job.log.count("the ranks start again in this allocation, on node") == 1
    assert job.restarts == 1
    assert "rank 0 on node01 ended first, with exit code 9" in job.log
    assert "no new checkpoint in 3 starts: giving up" in job.log


@pytest.mark.slow
def test_a_hung_rank_is_named_and_its_node_left_out(
    submit: Submit, tmp_path: Path, write_config: WriteConfig, uninterrupted: dict[int, dict]
) -> None:
    folder = tmp_path / "run"
    job = submit(4, *LONG, "--runtime.hang_timeout=10", IN2_CONFIG=write_config(folder))
    _wait_for_step(job, folder, 11)
    node = job.cluster.run("scontrol", "show", "hostnames", job.fields["NodeList"]).split()[2]
    (rank,) = _ranks(job, node)
    rank.suspend()
    assert job.finish() == "COMPLETED 0:0", job.log
    assert job.restarts == 1
    assert f"rank 2 on {node} did not arrive (no answer: it is stopped" in job.log
    assert f"excluding {node}\n" in job.log
    assert job.fields["ExcNodeList"] == node
    assert_same_losses(folder, uninterrupted)


@pytest.mark.slow
def test_a_controller_that_is_down_only_delays_the_restart(
    cluster: SlurmCluster,
    submit: Submit,
    tmp_path: Path,
    write_config: WriteConfig,
    uninterrupted: dict[int, dict],
) -> None:
    folder = tmp_path / "run"
    job = submit(4, *LONG, IN2_CONFIG=write_config(folder))
    _wait_for_step(job, folder, 11)
    nodes = cluster.run("scontrol", "show", "hostnames", job.fields["NodeList"]).split()
    (rank,) = _ranks(job, nodes[1])
    cluster.kill_controller()
    try:
        rank.kill()
        cluster.wait_for(lambda: "was killed by SIGKILL" in job.log, f"the failure\n{job.log}")
        cluster.wait_for(lambda: "Unable to contact slurm controller" in job.log, "squeue's try")
    finally:
        cluster.start_controller()
    assert job.finish() == "COMPLETED 0:0", job.log
    assert job.restarts <= 1  # a requeue where the controller has not found its nodes again yet
    assert_same_losses(folder, uninterrupted)


@pytest.mark.slow
def test_a_broken_python_on_the_first_node_moves_the_plan_to_another(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    python, broken = tmp_path / "python", tmp_path / "broken"
    python.write_text(
        "#!/bin/bash\n"
        f"if [ $2 = plan ]; then [ -e {broken} ] || echo $SLURMD_NODENAME >{broken}; fi\n"
        f'if [ $2 = plan ] && [ "$(<{broken})" = $SLURMD_NODENAME ]; then exit 127; fi\n'
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    options = ("--data.validation=", "--schedule.steps=2")
    job = submit(2, *options, IN2_CONFIG=write_config(tmp_path / "run"), IN2_PYTHON=python)
    assert job.finish() == "COMPLETED 0:0", job.log
    assert f"plan failed on {broken.read_text().strip()} with exit code 127" in job.log
    assert job.restarts == 0


@pytest.mark.slow
def test_any_base_is_imported_once_and_trained(
    submit: Submit, tmp_path: Path, write_config: WriteConfig, small_tokenizer: Tokenizer
) -> None:
    """The configuration names neither sizes nor tokenizer: both are the base's."""
    base, folder = save_model("qwen 2.5", tmp_path / "hf", small_tokenizer.path), tmp_path / "run"
    file = write_config(folder)
    config = yaml.safe_load(file.read_text())
    del config["model"], config["data"]["tokenizer_model"], config["checkpoint"]["dir"]
    file.write_text(yaml.safe_dump(config))
    options = ("--data.validation=", "--schedule.steps=1")
    variables = {"IN2_CONFIG": file, "IN2_BASE": base, "IN2_OUTPUT": folder}
    job = submit(1, *options, **variables)
    assert job.finish() == "COMPLETED 0:0", job.log
    assert f"importing {base}" in job.log
    assert f"starting from {folder}.base/iter_0000000" in job.log
    (step,) = complete_steps(folder)
    assert read_model_config(step).architecture == "qwen2"
    # Again, and from the checkpoint itself: nothing is imported any more.
    for start in (base, Path(f"{folder}.base")):
        again = submit(1, *options, **variables | {"IN2_BASE": start})
        assert again.finish() == "COMPLETED 0:0", again.log
        assert "importing" not in again.log
        assert "the run is finished" in again.log


def test_a_base_that_is_none_is_refused(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    variables = {"IN2_CONFIG": write_config(tmp_path / "run"), "IN2_BASE": tmp_path}
    job = submit(1, **variables)
    assert job.finish() == "FAILED 2:0", job.log
    assert f"IN2_BASE={tmp_path} is no checkpoint and has no config.json" in job.log
