"""Troubles of a job that are nobody's bad input: each is tried again, or ends in one clear line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.slurm.conftest import Submit
from tests.slurm.test_film7b import WriteConfig, _wait_for_step
from tests.training.conftest import read_metrics

# In place of Python: each trouble comes once, in this order, and its file is its trace.
TROUBLES = """#!/bin/bash
cd {folder}
once() {{ [ ! -e "$1" ] && touch "$1"; }}
preempt() {{ scancel --batch --signal=USR1 "$SLURM_JOB_ID"; }}
case "$2" in
plan)
    if once preempted-plan; then preempt; exec sleep 600; fi
    if [ ! -e failed-plan-2 ]; then # on both nodes
        if ! once failed-plan; then touch failed-plan-2; fi
        exit 127
    fi
    ;;
nodes)
    if [ "$SLURM_PROCID" = 0 ] && once port; then
        {python} -c "
import socket, sys, time
taken = socket.create_server(('', int(sys.argv[1])))
open('bound', 'w').close()
while True: taken.accept()
" "$MASTER_PORT" &
        until [ -e bound ]; do sleep 0.1; done
    elif [ "$SLURM_PROCID" = 1 ] && [ "$IN2_ATTEMPT" = 1 ] && once late; then
        exec sleep 600
    elif [ "$SLURM_PROCID$IN2_ATTEMPT" = 00 ] && [ -e late ] && once preempted-check; then
        preempt
        exec sleep 600
    fi
    ;;
esac
cd "$OLDPWD"
exec {python} "$@"
"""


@pytest.mark.slow
def test_preemptions_do_not_count_and_other_troubles_before_the_first_step_are_tried_again(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    """Two preemptions, a plan that cannot run, a taken port and a late rank; two may count."""
    traces, python = tmp_path / "traces", tmp_path / "python"
    traces.mkdir()
    python.write_text(TROUBLES.format(folder=traces, python=sys.executable))
    python.chmod(0o755)
    options = ("--data.validation=", "--schedule.steps=2")
    variables = {"IN2_PYTHON": python, "IN2_MAX_REQUEUES": 2, "IN2_CHECK_TIMEOUT": 60}
    job = submit(2, *options, IN2_CONFIG=write_config(tmp_path / "run"), **variables)
    assert job.finish() == "COMPLETED 0:0", job.log
    assert "the plan was stopped by SIGUSR1" in job.log
    assert "the plan failed: no rank was started" in job.log
    assert "another program listens on port" in job.log
    assert "the ranks start again in this allocation" in job.log
    assert "rank 1 did not report" in job.log
    assert "check: stopped by SIGUSR1" in job.log
    assert job.restarts == 4
    assert sorted(read_metrics(tmp_path / "run")) == [1, 2]
    assert job.log.count("excluding ") == 1  # the late rank's; the others are sound
    assert "Traceback" not in job.log


@pytest.mark.slow
def test_an_unfit_node_that_was_asked_for_ends_the_job_in_one_line(
    submit: Submit, tmp_path: Path, write_config: WriteConfig
) -> None:
    """With the node excluded the job would wait for ever."""
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/bash\n[ $2 = nodes ] && [ $SLURMD_NODENAME = node02 ] && exit 127\n"
        f'exec {sys.executable} "$@"\n'
    )
    python.chmod(0o755)
    config = write_config(tmp_path / "run")
    pinned = ("--nodelist=node[01-02]",)
    job = submit(2, "--data.validation=", sbatch=pinned, IN2_CONFIG=config, IN2_PYTHON=python)
    assert job.finish() == "FAILED 1:0", job.log
    assert job.log.count("node02 is unfit and --nodelist demands it") == 1
    assert job.restarts == 0
    assert "Traceback" not in job.log


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_output_disk_ends_the_job_in_one_line_and_the_run_goes_on_later(
    submit: Submit, tmp_path: Path, small_disk: Path, write_config: WriteConfig
) -> None:
    folder = small_disk / "run"
    options = ("--data.validation=", "--schedule.steps=400", "--checkpoint.interval_steps=5")
    config = tmp_path / "run.yaml"
    config.write_text(write_config(folder).read_text())
    job = submit(2, *options, IN2_CONFIG=config)
    _wait_for_step(job, folder, 6)
    rest = small_disk / "rest"
    with pytest.raises(OSError, match="No space left"), open(rest, "wb", buffering=0) as stream:
        while True:
            stream.write(bytes(1 << 16))
    assert job.finish() == "FAILED 2:0", job.log
    errors = [line for line in job.log.splitlines() if "error: " in line and "srun: " not in line]
    (line,) = [line for line in errors if "slurmstepd" not in line]
    assert "No space left on device" in line
    assert str(folder) in line
    assert "Traceback" not in job.log
    rest.unlink()
    done = max(read_metrics(folder))
    again = submit(2, *options[:1], f"--schedule.steps={done + 1}", IN2_CONFIG=config)
    assert again.finish() == "COMPLETED 0:0", again.log
    assert f"resuming from {folder}/iter_" in again.log
