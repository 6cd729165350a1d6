"""A real Slurm cluster of virtual nodes on this machine: private files, free ports, no trace left.

Controller, node daemons and munge are the distribution's own. Every virtual node is a ``slurmd``
of its own; all share this machine's host name, so nodes are told apart by ``SLURMD_NODENAME``.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

DAEMONS = ("munged", "slurmctld", "slurmd")
SBIN = "/usr/sbin:/usr/local/sbin"

CONFIG = """\
ClusterName=virtual
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdParameters=config_overrides
SlurmdTimeout=20
MinJobAge=86400
FirstJobId={job}
KillWait=30
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=1
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
NodeName=node[01-{nodes:02d}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] \
CPUs=8 RealMemory=1000 State=UNKNOWN
PartitionName=virtual Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE
"""


def missing_daemons() -> list[str]:
    """The programs that a cluster needs and this machine lacks."""
    return [name for name in DAEMONS if shutil.which(name, path=_path()) is None]


def install_slurm() -> None:
    """Install Debian's Slurm; needs root."""
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=quiet, stdout=subprocess.DEVNULL)
    command = ["apt-get", "install", "-y", "-qq", "slurm-wlm", "munge"]
    subprocess.run(command, check=True, env=quiet, stdout=subprocess.DEVNULL)


class SlurmCluster:
    """Virtual nodes node01, node02, ... under one controller; :meth:`stop` ends all of it."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.nodes = nodes
        self.config = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        """The environment of a client of this cluster, without variables of an outer cluster."""
        own = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SLURM", "SBATCH", "IN2_"))
        }
        return {**own, "PATH": _path(), "SLURM_CONF": str(self.config)}

    def start(self) -> None:
        """Bring the cluster up and wait until every node is idle."""
        (self.folder / "state").mkdir(parents=True)
        self.folder.chmod(0o755)
        first = _free_ports(self.nodes + 1)
        self.config.write_text(
            CONFIG.format(
                host=socket.gethostname().split(".")[0],
                user=pwd.getpwuid(os.getuid()).pw_name,
                folder=self.folder,
                nodes=self.nodes,
                port=first,
                first=first + 1,
                job=random.randrange(1, 9000),  # the job's number gives the ranks' port
                last=first + self.nodes,
            )
        )
        self._start_munge()
        self.start_controller()
        self.wait_for(lambda: "UP" in self.run("scontrol", "ping", check=False), "slurmctld")
        for node in self.node_names:
            self.start_node(node)
        self.wait_for(lambda: self._idle_nodes() == self.nodes, "idle nodes", seconds=120)

    @property
    def node_names(self) -> list[str]:
        return [f"node{number:02d}" for number in range(1, self.nodes + 1)]

    @property
    def lost_nodes(self) -> list[str]:
        """Nodes that were killed and not started again."""
        return [node for node in self.node_names if node not in self._daemons]

    def start_controller(self) -> None:
        """Start the controller; it remembers the jobs of the one before."""
        self._start("slurmctld", "-D", "-f", str(self.config))

    def kill_controller(self) -> None:
        """Take the controller away, as a crash of its machine does."""
        controller = self._daemons.pop("slurmctld")
        controller.kill()
        controller.wait()

    def start_node(self, node: str) -> None:
        """Start the daemon of one virtual node."""
        self._start("slurmd", "-D", "-f", str(self.config), "-N", node, key=node)

    def kill_node(self, node: str) -> None:
        """Take a node away as a power cut does: its daemon, its step managers, its ranks."""
        ranks = [
            process
            for process in self.processes()
            if process.environ().get("SLURMD_NODENAME") == node
        ]
        doomed = {
            parent for rank in ranks if (parent := rank.parent()) and parent.name() == "slurmstepd"
        }
        # Those first that would report the end of the others.
        for process in [psutil.Process(self._daemons[node].pid), *doomed, *ranks]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._daemons.pop(node).wait()

    def run(self, *command: str, check: bool = True, **environment: str) -> str:
        """Run a client command; return what it prints."""
        done = subprocess.run(
            command,
            env={**self.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def wait_for(self, condition: Callable[[], bool], what: str, seconds: float = 600) -> None:
        """Wait until a condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not seen in {seconds:.0f} s"
            time.sleep(0.5)

    def stop(self) -> None:
        """End every job and daemon of this cluster."""
        if self.config.exists() and "slurmctld" in self._daemons:
            self.run("scancel", "--user", pwd.getpwuid(os.getuid()).pw_name, check=False)
        for name in [name for name in self._daemons if name != "munged"]:
            self._daemons[name].terminate()
        for process in self.processes():
            process.kill()
        for daemon in self._daemons.values():
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self.processes():
            process.kill()

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.write_bytes(random.randbytes(128))
        key.chmod(0o600)
        options = {
            "socket": "munge.socket",
            "key-file": key.name,
            "pid-file": "munged.pid",
            "log-file": "munged.log",
            "seed-file": "munge.seed",
        }
        paths = [f"--{name}={self.folder / file}" for name, file in options.items()]
        self._start("munged", "--foreground", "--force", "--num-threads=2", *paths)
        self.wait_for((self.folder / "munge.socket").exists, "munge's socket", seconds=60)

    def _start(self, *command: str, key: str | None = None) -> None:
        name = key or command[0]
        with open(self.folder / f"{name}.out", "ab") as log:
            self._daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", *command],  # they end if this process is killed
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _idle_nodes(self) -> int:
        listing = self.run("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
        return sum(line.split()[1] == "idle" for line in listing.splitlines())

    def processes(self) -> list[psutil.Process]:
        """Step managers, batch scripts and ranks: all that carries this cluster's configuration."""
        daemons = {daemon.pid for daemon in self._daemons.values()}
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("SLURM_CONF") == str(self.config):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return [process for process in found if process.pid not in daemons]


def _path() -> str:
    return f"{os.environ.get('PATH', '/usr/bin:/bin')}:{SBIN}"


def _free_ports(count: int) -> int:
    """The first of so many free ports in a row, below the range of short-lived connections."""
    for _ in range(100):
        first = random.randrange(12000, 30000 - count)
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise OSError("no free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
