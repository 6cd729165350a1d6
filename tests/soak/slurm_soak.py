"""One Slurm job on virtual nodes under faults of ranks, nodes and controller, until it is done.

The job script must bring the run to its end by itself: nobody submits it again.
"""

import contextlib
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.conftest import ROOT
from tests.slurm.cluster import SlurmCluster
from tests.slurm.conftest import Job, job_environment
from tests.soak.common import Ledger, SoakError, newest_step

NODES, USED, SPARE = 16, 2, 1
END_SECONDS = 900.0
STOPPED = "Slurm: SIGSTOP of a rank"
RUNS_ON = ("Slurm: drained node", "Slurm: controller restart")  # the ranks are not touched
STEPS_PER_FAULT = 10  # of the run


class SlurmSoak:
    """The job, and what is done to it.

    Args:
        cluster: running.
        config: of the run, for two ranks.
        folder: ``checkpoint.dir``.
        chance: decides who is hit.
        ledger: takes the recovery times.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        config: Path,
        folder: Path,
        chance: random.Random,
        ledger: Ledger,
    ) -> None:
        self._cluster = cluster
        self._folder = folder
        self._chance = chance
        self._ledger = ledger
        self._job = self._submit(config)
        self._rank: psutil.Process  # that is stopped

    def disturb(self, kind: str) -> None:
        """Strike after a new step; wait for the next new one, of other ranks where these end.

        A rank is stopped meanwhile: on a fast machine the run would be done before the fault.
        """
        self._wait_for_step(newest_step(self._folder) + 1)
        struck = time.monotonic()
        self._rank = self._pause()
        step = newest_step(self._folder)
        KINDS[kind](self)
        if kind != STOPPED:
            self._resume()
        if kind not in RUNS_ON:
            self._wait_for_the_ranks_end()
            step = newest_step(self._folder)  # ranks that save and end may have made one more
        self._wait_for_step(step + 1)
        self._ledger.note(kind, time.monotonic() - struck)
        self._rank = self._pause()
        self._heal()
        self._resume()

    def finish(self) -> None:
        """Wait for the end of the job; see that it is a good one and that nothing is left."""
        state = self._job.finish(10 * END_SECONDS)
        if state != "COMPLETED 0:0" or "Traceback" in self._job.log:
            raise SoakError(f"the job ended as {state}:\n{self._job.log}")
        deadline = time.monotonic() + 30
        while left := self._of_the_job():
            if time.monotonic() > deadline:
                raise SoakError(f"{left} outlived the job")
            time.sleep(0.5)

    def _submit(self, config: Path) -> Job:
        log = self._folder.with_name("job.out")
        command = ("sbatch", "--parsable", "--gpus-per-node=0", "--ntasks-per-node=1")
        options = (f"--nodes={USED + SPARE}", f"--chdir={ROOT}", f"--output={log}")
        script = (str(ROOT / "slurm" / "film7b.sh"), f"--checkpoint.dir={self._folder}")
        values = {"IN2_CONFIG": str(config), "IN2_NODES": str(USED), "IN2_MAX_REQUEUES": "4"}
        variables = {**job_environment(values), "PYTHONPATH": str(ROOT)}
        return Job(
            int(self._cluster.run(*command, *options, *script, **variables)), log, self._cluster
        )

    def _wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + END_SECONDS
        while newest_step(self._folder) < step:
            if time.monotonic() > deadline:
                raise SoakError(f"step {step} did not come:\n{self._job.log}")
            if self._has_ended():
                raise SoakError(f"the job ended before step {step}:\n{self._job.log}")
            time.sleep(0.2)

    def _wait_for_the_ranks_end(self) -> None:
        _, alive = psutil.wait_procs([self._rank], timeout=END_SECONDS)
        if alive:
            raise SoakError(f"a rank lives on:\n{self._job.log}")

    def _has_ended(self) -> bool:
        try:
            return self._job.fields["JobState"] in ("FAILED", "COMPLETED", "CANCELLED", "TIMEOUT")
        except (AssertionError, KeyError, subprocess.TimeoutExpired):  # the controller is down
            return False

    def _of_the_job(self) -> list[psutil.Process]:
        return [
            process
            for process in self._cluster.processes()
            if process.environ().get("SLURM_JOB_ID") == str(self._job.number)
        ]

    def _resume(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self._rank.resume()

    def _pause(self) -> psutil.Process:
        """Stop any rank that trains."""
        while True:
            ranks = []
            for process in self._of_the_job():
                try:
                    is_training = any(word.endswith("train.py") for word in process.cmdline())
                    shell = process.parent()
                    if is_training and shell and "rank.sh" in " ".join(shell.cmdline()):
                        ranks.append(process)
                except psutil.NoSuchProcess:
                    continue
            own = [each for each in ranks if "rank.sh" not in " ".join(each.cmdline())]
            if own:
                rank = self._chance.choice(sorted(own, key=lambda each: each.pid))
                rank.suspend()
                return rank
            time.sleep(0.2)

    def _nodes(self) -> list[str]:
        """The nodes of the ranks: the present start's first ones."""
        listing = self._job.fields["NodeList"]
        return self._cluster.run("scontrol", "show", "hostnames", listing).split()

    def _signal(self, number: int) -> None:
        self._rank.send_signal(number)

    def _lose(self, place: int) -> None:
        self._cluster.kill_node(self._nodes()[place])

    def _requeue(self) -> None:
        self._control("requeue", str(self._job.number))

    def _control(self, *words: str) -> None:
        self._cluster.run("scontrol", *words)

    def _drain(self) -> None:
        node = self._chance.choice(self._nodes())
        self._control("update", f"NodeName={node}", "State=DRAIN", "Reason=soak")

    def _restart_controller(self) -> None:
        self._cluster.kill_controller()
        self._cluster.start_controller()

    def _kill_without_controller(self) -> None:
        self._cluster.kill_controller()
        self._rank.kill()
        self._cluster.wait_for(
            lambda: "Unable to contact slurm controller" in self._job.log.rpartition("killed")[2],
            "the job's look for the controller",
        )
        self._cluster.start_controller()

    def _preempt(self) -> None:
        self._cluster.run("scancel", "--batch", "--signal=USR1", str(self._job.number))

    def _heal(self) -> None:
        """Bring lost and drained nodes back."""
        for node in self._cluster.lost_nodes:
            self._cluster.start_node(node)
        drained = self._cluster.run("sinfo", "-N", "-h", "--states=drain", "--format=%N").split()
        for node in sorted(set(drained)):
            self._control("update", f"NodeName={node}", "State=RESUME")


KINDS: dict[str, Callable[[SlurmSoak], None]] = {
    "Slurm: SIGKILL of a rank": lambda soak: soak._signal(signal.SIGKILL),
    "Slurm: SIGTERM of a rank": lambda soak: soak._signal(signal.SIGTERM),
    "Slurm: SIGBUS of a rank": lambda soak: soak._signal(signal.SIGBUS),
    STOPPED: lambda soak: soak._signal(signal.SIGSTOP),
    "Slurm: lost node": lambda soak: soak._lose(1),
    "Slurm: lost first node": lambda soak: soak._lose(0),
    "Slurm: drained node": SlurmSoak._drain,
    "Slurm: controller restart": SlurmSoak._restart_controller,
    "Slurm: controller down, rank killed": SlurmSoak._kill_without_controller,
    "Slurm: requeue": SlurmSoak._requeue,
    "Slurm: preemption signal": SlurmSoak._preempt,
}


def soak_on_slurm(
    config: Path, folder: Path, kinds: list[str], chance: random.Random, ledger: Ledger
) -> None:
    """Run a job under some faults in a cluster of its own.

    Raises:
        SoakError: the job did not get through.
    """
    home = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(home, NODES)
    try:
        cluster.start()
        soak = SlurmSoak(cluster, config, folder, chance, ledger)
        for number, kind in enumerate(kinds, start=1):
            soak.disturb(kind)
            print(f"{number:>4} of {len(kinds)}: {kind}, step {newest_step(folder)}", flush=True)
        soak.finish()
    finally:
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)
