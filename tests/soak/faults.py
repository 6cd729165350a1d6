"""The faults of the soak: what is done to a run, and how it must end."""

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.checkpoint.integrity import COMPLETE, seal_step

KILLED, BUS_ERROR, REQUEUE, HUNG, BAD_INPUT = 137, 135, 75, 69, 2
SLOW_SECONDS = 0.5  # that a writer is stopped


@dataclass(frozen=True)
class Processes:
    """A run: its launcher, its ranks in the order in which they started, its checkpoint folder."""

    launcher: psutil.Process
    ranks: Sequence[psutil.Process]
    folder: Path

    def writers(self) -> list[psutil.Process]:
        """Return the processes that write checkpoints now."""
        found = []
        for rank in self.ranks:
            with contextlib.suppress(psutil.NoSuchProcess):
                found += rank.children()
        return found


@dataclass(frozen=True)
class LiveFault:
    """A fault of running processes.

    Args:
        strike: does it; False if there is nothing to strike at this moment.
        codes: exit codes of the launcher, one of which must follow; 0 for a run that goes on.
    """

    strike: Callable[[Processes, random.Random], bool]
    codes: Sequence[int]


def _signal(number: signal.Signals) -> Callable[[Processes, random.Random], bool]:
    def strike(processes: Processes, chance: random.Random) -> bool:
        chance.choice(processes.ranks).send_signal(number)
        return True

    return strike


def _signal_launcher(number: signal.Signals) -> Callable[[Processes, random.Random], bool]:
    def strike(processes: Processes, chance: random.Random) -> bool:
        processes.launcher.send_signal(number)
        return True

    return strike


def _kill_writer(processes: Processes, chance: random.Random) -> bool:
    for writer in processes.writers():
        with contextlib.suppress(psutil.NoSuchProcess):
            writer.kill()
            return True
    return False


def _kill_all_ranks(processes: Processes, chance: random.Random) -> bool:
    for rank in processes.ranks:
        with contextlib.suppress(psutil.NoSuchProcess):
            rank.kill()
    return True


def _kill_all_and_change_times(processes: Processes, chance: random.Random) -> bool:
    """As when the clock of the file server jumps: every file is a day older or newer."""
    folder = processes.folder
    _kill_all_ranks(processes, chance)
    jump = chance.choice((-1, 1)) * 86400
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        with contextlib.suppress(FileNotFoundError):
            times = path.stat()
            os.utime(path, (times.st_atime + jump, times.st_mtime + jump))
    return True


def _fill_the_disk(processes: Processes, chance: random.Random) -> bool:
    """No file can grow any more; a real full disk needs a file system of its own."""
    for rank in processes.ranks:
        rank.rlimit(psutil.RLIMIT_FSIZE, (0, 0))
    return True


def _slow_down_a_writer(processes: Processes, chance: random.Random) -> bool:
    for writer in processes.writers():
        with contextlib.suppress(psutil.NoSuchProcess):
            writer.suspend()
            time.sleep(SLOW_SECONDS)
            writer.resume()
            return True
    return False


def _stop_for_a_moment(processes: Processes, chance: random.Random) -> bool:
    rank = chance.choice(processes.ranks)
    rank.suspend()
    rank.resume()
    return True


LIVE: dict[str, LiveFault] = {
    "SIGKILL of a rank": LiveFault(_signal(signal.SIGKILL), (KILLED,)),
    "SIGKILL of all ranks": LiveFault(_kill_all_ranks, (KILLED,)),
    "SIGKILL of the launcher": LiveFault(_signal_launcher(signal.SIGKILL), (-signal.SIGKILL,)),
    "SIGKILL of a writer": LiveFault(_kill_writer, (BAD_INPUT,)),
    "SIGBUS of a rank": LiveFault(_signal(signal.SIGBUS), (BUS_ERROR,)),
    "SIGTERM of the launcher": LiveFault(_signal_launcher(signal.SIGTERM), (REQUEUE,)),
    "SIGTERM of a rank": LiveFault(_signal(signal.SIGTERM), (REQUEUE,)),
    "SIGHUP of the launcher": LiveFault(_signal_launcher(signal.SIGHUP), (REQUEUE,)),
    "SIGSTOP of a rank": LiveFault(_signal(signal.SIGSTOP), (HUNG,)),
    "SIGKILL of all ranks, clock jump": LiveFault(_kill_all_and_change_times, (KILLED,)),
    "full disk": LiveFault(_fill_the_disk, (BAD_INPUT,)),
    "slow disk": LiveFault(_slow_down_a_writer, (0,)),
    "SIGSTOP and SIGCONT of a rank": LiveFault(_stop_for_a_moment, (0,)),
}


def _any_file(step: Path, chance: random.Random) -> Path:
    return chance.choice(sorted(path for path in step.rglob("*") if path.is_file()))


def _flip_a_bit(step: Path, chance: random.Random) -> None:
    path = _any_file(step, chance)
    content = bytearray(path.read_bytes())
    place = chance.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def _tear(step: Path, chance: random.Random) -> None:
    path = _any_file(step, chance)
    os.truncate(path, chance.randrange(path.stat().st_size))


def _delete(step: Path, chance: random.Random) -> None:
    _any_file(step, chance).unlink()


def _exchange(step: Path, chance: random.Random) -> None:
    """Put a shard of an older step into the newest one."""
    (shard, *_) = sorted(step.glob("*.distcp"))
    shutil.copyfile(complete_steps(step.parent)[0] / shard.name, shard)


# Done to the newest of several steps, between two starts of the run.
DAMAGE: dict[str, Callable[[Path, random.Random], None]] = {
    "flipped bit": _flip_a_bit,
    "torn file": _tear,
    "missing file": _delete,
    "shard of another step": _exchange,
}


def change_place_unnoticed(step: Path, chance: random.Random) -> None:
    """The control: a damage that nothing can notice, since the step is sealed again.

    The run goes on with other rows than it should.
    """
    state = json.loads((step / "state.json").read_text())
    (step / "state.json").write_text(json.dumps({**state, "consumed_rows": 0}))
    sealed = json.loads((step / COMPLETE).read_text())
    (step / COMPLETE).unlink()
    seal_step(step, {name: sealed[name] for name in ("step", "tokenizer_sha256")}, {})
