"""One owner of a checkpoint folder: a lease that works across nodes and on NFS.

A lease is a numbered file, ``.owner-000003.json``; the highest number holds the folder. It is
created by linking a finished file to its name, which is atomic on NFS too. Its owner touches it
every few seconds. A newcomer takes over by creating the next number, so that of several newcomers
only one succeeds, and the former owner sees that it has lost the folder. The newest lease is never
deleted, only marked as released.

Ages are differences of two files' times on the same file system, so that the clocks of two nodes
need not agree. An owner is taken for dead if its process is known to be gone, or if it is a former
start of the same job, or if its lease is old and does not change while the newcomer watches.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from megatron_in2.errors import EXIT_BAD_INPUT, InputError

HEARTBEAT_SECONDS = 5.0
STALE_SECONDS = 60.0  # without a heartbeat
WATCH_SECONDS = 3 * HEARTBEAT_SECONDS  # before a lease that looks old is taken over
_START_SECONDS = 1.0  # by which two readings of a process's start may differ
_STARTS = 10_000  # more than one start of a job has starts of its ranks
_FILE = ".owner-{number:06d}.json"
_PATTERN = re.compile(r"\.owner-(\d{6,})\.json")


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder.

    Args:
        host: its host name.
        pid: its process id.
        started: when it started, in seconds since the epoch; tells a process from a later one of
            the same id.
        machine: identity of the running kernel and of its process ids (containers have their own);
            process ids can be compared only where it is equal.
        job: the scheduler's number of the job; empty without one.
        start: which start of the job, and of the ranks in it; one ends before the next begins.
        token: unique.
        released: whether it has ended its use of the folder.
    """

    host: str
    pid: int
    started: float
    machine: str
    job: str
    start: int
    token: str
    released: bool = False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"process {self.pid} on {self.host}{job}"


def this_process(environment: Mapping[str, str] = os.environ) -> Owner:
    """Return this process as an owner."""
    return Owner(
        host=environment.get("SLURMD_NODENAME") or socket.gethostname(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        machine=_machine(),
        job=environment.get("SLURM_JOB_ID", ""),
        start=_STARTS * int(environment.get("SLURM_RESTART_COUNT", 0))
        + int(environment.get("IN2_ATTEMPT", 0)),
        token=uuid.uuid4().hex,
    )


class Lease:
    """Holds a folder from :func:`take_lease` to :meth:`release`.

    A thread keeps the lease fresh. If another run has taken it over, this process ends at once
    with one line and exit code 2, so that two runs never write to one folder.
    """

    def __init__(self, folder: Path, number: int, owner: Owner, taken_from: Owner | None) -> None:
        self.taken_from = taken_from
        self._folder = folder
        self._number = number
        self._owner = owner
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the folder free for the next run."""
        self._is_over.set()
        self._thread.join()
        path = self._folder / _FILE.format(number=self._number)
        with contextlib.suppress(OSError):  # without it, the next run takes the lease over
            if _newest(self._folder)[0] == self._number:
                _write(path, replace(self._owner, released=True))

    def newer_owner(self) -> Owner | None:
        """Return the owner that has taken the folder over; None while it is this process."""
        number, owner = _newest(self._folder)
        return owner if number > self._number else None

    def _keep(self) -> None:
        path = self._folder / _FILE.format(number=self._number)
        while not self._is_over.wait(HEARTBEAT_SECONDS):
            # An error of the file system here says nothing about the owner: the next beat decides.
            with contextlib.suppress(OSError):
                if other := self.newer_owner():
                    line = f"{self._folder} was taken over by {other}: this run ends\n"
                    os.write(2, line.encode())
                    os._exit(EXIT_BAD_INPUT)
                os.utime(path)


def take_lease(folder: Path, owner: Owner, watch_seconds: float = WATCH_SECONDS) -> Lease:
    """Become the owner of a folder.

    Args:
        folder: checkpoints of a run; created if missing.
        owner: this process.
        watch_seconds: how long an old lease must not change before it is taken over.

    Returns:
        The lease; ``taken_from`` is the former owner if that one did not release it.

    Raises:
        InputError: another run holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        number, former = _newest(folder)
        if former is not None and not _is_gone(folder, number, former, owner):
            age = _age(folder, number)
            if age < STALE_SECONDS or not _is_silent(folder, number, watch_seconds):
                raise _in_use(folder, former, age)
        if _create(folder, number + 1, owner) and _newest(folder)[0] == number + 1:
            for path in _files(folder).values():
                if path.name < _FILE.format(number=number + 1):
                    path.unlink(missing_ok=True)
            is_left = former is not None and not former.released
            return Lease(folder, number + 1, owner, former if is_left else None)


def require_no_owner(folder: Path, owner: Owner) -> None:
    """Refuse a folder that another run holds for certain; takes no lease and does not wait.

    Raises:
        InputError: another run holds the folder.
    """
    number, former = _newest(folder)
    if former is None or _is_gone(folder, number, former, owner):
        return
    if (age := _age(folder, number)) < STALE_SECONDS:
        raise _in_use(folder, former, age)


def _in_use(folder: Path, former: Owner, age: float) -> InputError:
    return InputError(
        f"checkpoint.dir={folder} is in use by {former} (last sign of life {max(age, 0):.0f} s "
        f"ago): end that run, or name another checkpoint.dir; if it is dead, start again in "
        f"{STALE_SECONDS:.0f} s"
    )


def _is_gone(folder: Path, number: int, former: Owner, owner: Owner) -> bool:
    """Return whether the former owner certainly does not use the folder any more."""
    if former.released or (former.job and former.job == owner.job and former.start < owner.start):
        return True
    if former.machine != owner.machine:
        return False
    try:
        process = psutil.Process(former.pid)
        is_another = abs(process.create_time() - former.started) > _START_SECONDS
        return is_another or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _is_silent(folder: Path, number: int, seconds: float) -> bool:
    """Watch a lease that looks old: a clock that has jumped makes a live owner look dead."""
    path = folder / _FILE.format(number=number)
    deadline = time.monotonic() + seconds
    try:
        before = path.stat().st_mtime_ns
        while time.monotonic() < deadline:
            time.sleep(min(1.0, seconds))
            if path.stat().st_mtime_ns != before:
                return False
    except FileNotFoundError:  # somebody else has taken it over
        return False
    return True


def _age(folder: Path, number: int) -> float:
    """Return the seconds since the last heartbeat by the file system's own clock."""
    path = folder / f".owner-{uuid.uuid4().hex}"
    path.touch()
    try:
        return path.stat().st_mtime - (folder / _FILE.format(number=number)).stat().st_mtime
    except FileNotFoundError:  # a newer lease has just replaced it
        return 0.0
    finally:
        path.unlink()


def _create(folder: Path, number: int, owner: Owner) -> bool:
    """Create a lease if its number is free."""
    temporary = folder / f".owner-{owner.token}"
    _write(temporary, owner)
    try:
        os.link(temporary, folder / _FILE.format(number=number))
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _write(path: Path, owner: Owner) -> None:
    temporary = path.with_name(f".owner-{owner.token}-new")
    temporary.write_text(json.dumps(asdict(owner)), encoding="utf-8")
    os.replace(temporary, path)


def _newest(folder: Path) -> tuple[int, Owner | None]:
    """Return the number and the owner of the valid lease; (0, None) if there is none yet."""
    while files := _files(folder):
        number = max(files)
        try:
            return number, Owner(**json.loads(files[number].read_text(encoding="utf-8")))
        except FileNotFoundError:  # a newer one has just replaced it
            continue
        except (ValueError, TypeError):  # damaged: nobody can be named, so nobody holds it
            return number, None
    return 0, None


def _files(folder: Path) -> dict[int, Path]:
    with contextlib.suppress(FileNotFoundError):
        matches = [(_PATTERN.fullmatch(path.name), path) for path in folder.iterdir()]
        return {int(match[1]): path for match, path in matches if match}
    return {}


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # no Linux
        return socket.gethostname()
