"""A Slurm cluster for the tests, the tiny run on it, and the job script as a user submits it."""

import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.slurm.cluster import SlurmCluster, install_slurm, missing_daemons
from tests.training.conftest import (  # noqa: F401 - fixtures
    base_config,
    dataset,
    train,
    write_config,
)

VIRTUAL_NODES = 18
WANTED = ("CI", "SLURM")
THREADS = "1"  # of a rank


@pytest.fixture(scope="session")
def cluster() -> Iterator[SlurmCluster]:
    """Slurm of this machine, installed first where that is asked for; otherwise tests skip."""
    if missing := missing_daemons():
        if not any(os.environ.get(name) in ("1", "true") for name in WANTED):
            pytest.skip(
                f"no {missing[0]} here: make test SLURM=1 installs Slurm on Debian, as root"
            )
        if os.getuid() != 0 or shutil.which("apt-get") is None:
            pytest.skip(f"no {missing[0]} here, and only root on Debian can install it")
        install_slurm()
    # Munge's socket needs a short path that only its owner can write to.
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    virtual = SlurmCluster(folder, VIRTUAL_NODES)
    try:
        virtual.start()
        yield virtual
    finally:
        virtual.stop()
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Job:
    """A submitted job: its number and its log so far."""

    number: int
    log_file: Path
    cluster: SlurmCluster

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    @property
    def fields(self) -> dict[str, str]:
        """The job's fields at the controller."""
        line = self.cluster.run("scontrol", "show", "job", "--oneliner", str(self.number))
        return dict(re.findall(r"(\S+?)=(\S*)", line))

    @property
    def restarts(self) -> int:
        return int(self.fields["Restarts"])

    def finish(self, seconds: float = 900) -> str:
        """Wait until the job has left the queue for good; return its state and exit code."""
        deadline = time.monotonic() + seconds
        while (fields := self.fields)["JobState"] in _UNFINISHED:
            assert time.monotonic() < deadline, f"{fields['JobState']}\n{self.log}"
            time.sleep(0.5)
        print(f"\n$ cat {self.log_file.name}\n{self.log}")
        return f"{fields['JobState']} {fields['ExitCode']}"


_UNFINISHED = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD")

Submit = Callable[..., Job]


@pytest.fixture
def submit(cluster: SlurmCluster, tmp_path: Path) -> Iterator[Submit]:
    """Submit slurm/film7b.sh with options of sbatch, options of training, and variables."""
    jobs = []

    def run(nodes: int, *options: object, sbatch: tuple[str, ...] = (), **variables: object) -> Job:
        command = (
            *("sbatch", "--parsable", "--gpus-per-node=0", "--ntasks-per-node=1"),
            *(f"--nodes={nodes}", f"--chdir={ROOT}", f"--output={tmp_path}/%x-%j.out", *sbatch),
            *(str(ROOT / "slurm" / "film7b.sh"), *map(str, options)),
        )
        values = {name: str(value) for name, value in variables.items()}
        printed = cluster.run(*command, **job_environment(values))
        number = int(printed)
        jobs.append(Job(number, tmp_path / f"film7b-{number}.out", cluster))
        return jobs[-1]

    yield run
    for job in jobs:
        cluster.run("scancel", str(job.number), check=False)


def job_environment(variables: dict[str, str]) -> dict[str, str]:
    """The site file: Python, network interface, and one thread a rank.

    The number of threads decides in which order a sum is added up. A rank that is alone on its
    node would take all cores, ranks of one machine share them: losses would differ by 1e-7.
    """
    site = {
        "IN2_ROOT": str(ROOT),
        "IN2_PYTHON": sys.executable,
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": THREADS,
        "OMP_WAIT_POLICY": "passive",
    }
    return {**site, **variables}
