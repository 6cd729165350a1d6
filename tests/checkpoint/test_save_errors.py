"""A save that fails ends the run in one line; the checkpoint before it stays in use."""

import contextlib
import errno
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.checkpoint.save_errors import explained
from megatron_in2.errors import InputError
from tests.conftest import ROOT, assert_refused
from tests.training.conftest import WriteConfig

TRAIN = [sys.executable, str(ROOT / "tools" / "train.py")]

# In a mount namespace of its own: a disk of 9 MB, the run, what it left, and, with some space made,
# a second start.
ON_A_SMALL_DISK = """
disk=$1
shift
mount -t tmpfs -o size=9m none "$disk"
"$@"
echo "code $?"
ls "$disk/run"
rm -r "$disk/run/iter_0000002"
"$@"
"""


def test_what_was_written_goes_and_whole_steps_stay(tmp_path: Path) -> None:
    step = tmp_path / "iter_0000003"
    step.mkdir()
    with pytest.raises(RuntimeError, match="a defect"), explained(step):
        raise RuntimeError("a defect of ours")
    assert step.exists()  # to be looked at
    (step / "complete.json").write_text("{}")
    exists = r"Permission denied: .*; iter_0000003 is complete"
    with pytest.raises(InputError, match=exists), explained(step):  # e.g. of an older step's files
        raise PermissionError(errno.EACCES, "Permission denied")
    assert step.exists()
    (step / "complete.json").unlink()
    gone = r"the disk is full: free some, .*; none exists yet"
    with pytest.raises(InputError, match=gone), explained(step):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert not step.exists()


@pytest.mark.parametrize("limit", [0, 200, 4096])
def test_a_file_of_torch_that_cannot_grow_is_a_full_disk(limit: int, tmp_path: Path) -> None:
    step = tmp_path / "iter_0000003"
    step.mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(InputError, match="iter_0000003 could not be saved: "), explained(step):
            torch.save({"weights": torch.zeros(10_000 if limit else 1)}, step / "common.pt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not step.exists()


@pytest.mark.parametrize("asynchronous", ["true", pytest.param("false", marks=pytest.mark.slow)])
def test_a_full_disk_ends_the_run_and_the_last_checkpoint_is_resumed_from(
    asynchronous: str, tmp_path: Path, write_config: WriteConfig
) -> None:
    """A checkpoint takes 3.3 MB: the disk has space for two of three."""
    disk = tmp_path / "disk"
    disk.mkdir()
    namespace = ["unshare", "--map-root-user", "--mount"]
    if subprocess.run([*namespace, "mount", "-t", "tmpfs", "none", disk], check=False).returncode:
        pytest.skip("this machine lets no user mount a disk in a namespace")
    config = tmp_path / "run.yaml"
    write_config(disk / "run").replace(config)
    options = ["--config", str(config), "--nproc=2", f"--checkpoint.asynchronous={asynchronous}"]
    options += ["--checkpoint.interval_steps=2", "--checkpoint.keep_last=0", "--data.validation="]
    result = subprocess.run(
        [*namespace, "sh", "-c", ON_A_SMALL_DISK, "sh", str(disk), *TRAIN, *options],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    _, _, second = result.stdout.partition("code ")
    assert second.startswith("2\n"), result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    errors = [line for line in result.stderr.splitlines() if "error: " in line]
    assert len(errors) == 1, result.stderr
    for words in ("iter_0000006 could not be saved: the disk is full", "checkpoint.keep_last"):
        assert words in errors[0]
    assert "iter_0000004 is complete" in errors[0]
    left = second.partition("parameters")[0].split()
    assert [name for name in left if "iter_" in name] == ["iter_0000002", "iter_0000004"]
    assert f"resuming from {disk / 'run' / 'iter_0000004'}" in second
    assert result.returncode == 0, result.stderr
    assert f"saving {disk / 'run' / 'iter_0000006'}" in second


def test_a_killed_writer_ends_the_run_and_the_checkpoint_before_it_remains(
    tmp_path: Path, write_config: WriteConfig
) -> None:
    folder = tmp_path / "run"
    options = ["--checkpoint.interval_steps=1", "--schedule.steps=400", "--data.validation="]
    run = subprocess.Popen(
        [*TRAIN, "--config", str(write_config(folder)), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    _kill_writers(run, folder)
    # No process of the run is left that could hold these pipes open.
    stdout, stderr = run.communicate(timeout=10)
    result = subprocess.CompletedProcess(run.args, run.returncode, stdout, stderr)
    assert_refused(result, "could not be saved", "was killed", "is complete and is resumed from")
    newest = complete_steps(folder)[-1]
    assert newest.name in stderr
    assert json.loads((newest / "state.json").read_text())["step"] > 0
    assert [path for path in folder.glob("iter_*") if path > newest] == []


def _kill_writers(run: subprocess.Popen[str], folder: Path) -> None:
    """Once a checkpoint exists, kill what the rank forks to write others, until the run ends."""
    deadline = time.monotonic() + 280
    launcher = psutil.Process(run.pid)
    while run.poll() is None:
        assert time.monotonic() < deadline, "the run did not end"
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            for rank in launcher.children() if complete_steps(folder) else []:
                for writer in rank.children():
                    writer.kill()
        time.sleep(0.002)
