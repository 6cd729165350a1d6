"""One run of plain processes, two data-parallel CPU ranks, started again after every fault.

After every fault it checks the exit code, that nothing but one line and warnings is said, that the
output is closed and that no process is left.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from megatron_in2.checkpoint.folder import complete_steps
from megatron_in2.training.checks.whole_run import examine_run
from tests.conftest import ROOT
from tests.soak.common import Ledger, SoakError, newest_step
from tests.soak.faults import DAMAGE, LIVE, Processes, change_place_unnoticed

STEPS_PER_FAULT = 7  # of the run; a fault strikes after 1 to 2 of them
FIRST_STEPS = 2
END_SECONDS = 10  # after its run, no process may live longer
START_SECONDS = 600.0
TWO_OWNERS, UNNOTICED = "two owners", "unnoticed change"
KINDS = (*LIVE, *DAMAGE, TWO_OWNERS)


class ProcessSoak:
    """One run, started again after every fault.

    Args:
        config: from :func:`write_run`.
        folder: ``checkpoint.dir``.
        chance: decides who is hit, and when.
        ledger: takes the recovery times.
    """

    def __init__(
        self, config: Path, folder: Path, chance: random.Random, ledger: Ledger | None = None
    ) -> None:
        self.folder = folder
        self._command = [sys.executable, str(ROOT / "tools" / "train.py"), "--nproc=2"]
        self._command += ["--config", str(config), f"--checkpoint.dir={folder}"]
        self._chance = chance
        self._ledger = ledger or Ledger()
        self._struck: tuple[str, float] | None = None
        self._started: list[subprocess.Popen[str]] = []

    def run(self, kinds: Sequence[str]) -> None:
        """Disturb the run with these faults, then let it finish.

        Raises:
            SoakError: something is not as it must be.
        """
        try:
            for number, kind in enumerate(kinds, start=1):
                self.disturb(kind)
                print(f"{number:>4} of {len(kinds)}: {kind}, step {self._step()}", flush=True)
            self._end(self._start(), (0,))
        finally:
            for run in self._started:
                run.kill()
                run.wait()
        problems = [found for found in examine_run(self.folder) if found.is_problem]
        if wrong := [each for each in problems if not each.subject.startswith("damaged_")]:
            raise SoakError(f"{wrong[0].subject} {wrong[0].result}")

    def disturb(self, kind: str) -> None:
        """Let the run make some steps, strike, and see that it ends as it must."""
        run = self._start()
        begun = self._step()
        self._wait(run, begun + self._chance.randint(1, FIRST_STEPS))
        ranks = sorted(psutil.Process(run.pid).children(), key=lambda process: process.pid)
        processes = Processes(psutil.Process(run.pid), ranks, self.folder)
        if kind == TWO_OWNERS:
            for rank in ranks:
                rank.suspend()
            self._end(self._start(), (2,), "is in use by process")
            for rank in ranks:
                rank.resume()
            run.terminate()
            codes: Sequence[int] = (75,)
        elif kind in LIVE:
            while not LIVE[kind].strike(processes, self._chance):
                if run.poll() is not None:
                    raise SoakError(f"{kind}: the run ended before it: {run.communicate()}")
            codes = LIVE[kind].codes
            if codes == (0,):  # it goes on
                self._wait(run, self._step() + 1)
                run.terminate()
                codes = (75,)
        else:
            while len(complete_steps(self.folder)) < 2:
                self._wait(run, self._step() + 1)
            run.terminate()
            codes = (75,)
        self._struck = (kind, time.monotonic())
        self._end(run, codes)
        damage = {**DAMAGE, UNNOTICED: change_place_unnoticed}.get(kind)
        if damage is not None:
            damage(complete_steps(self.folder)[-1], self._chance)

    def _start(self) -> subprocess.Popen[str]:
        run = subprocess.Popen(
            self._command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        )
        self._started.append(run)
        return run

    def _wait(self, run: subprocess.Popen[str], step: int) -> None:
        """Wait until the run has made a new step, which ends the recovery, and this one."""
        deadline, before = time.monotonic() + START_SECONDS, self._step()
        while (now := self._step()) < step:
            if run.poll() is not None:
                raise SoakError(f"the run ended by itself: {run.returncode} {run.communicate()}")
            if time.monotonic() > deadline:
                raise SoakError(f"step {step} was not reached in {START_SECONDS:.0f} s")
            if now > before and self._struck is not None:
                self._recovered()
            time.sleep(0.01)
        if self._struck is not None:
            self._recovered()

    def _recovered(self) -> None:
        assert self._struck is not None
        kind, struck = self._struck
        self._ledger.note(kind, time.monotonic() - struck)
        self._struck = None

    def _end(self, run: subprocess.Popen[str], codes: Sequence[int], words: str = "") -> None:
        """Wait for the end of a run: code, words, output and processes must be right."""
        family = psutil.Process(run.pid).children(recursive=True)
        code = self._code(run)
        try:
            _, errors = run.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            raise SoakError(f"output is open {END_SECONDS} s after the end") from None
        said = [line for line in errors.splitlines() if not line.startswith("WARNING ")]
        said = [line for line in said if "lost the connection to another rank" not in line]
        # Of ranks that are killed one after the other each may have a line.
        said = said if any(" killed by " not in line for line in said) else said[:1]
        if code not in codes or len(said) > 1 or words not in errors:
            raise SoakError(f"exit code {code}, expected one of {codes}: {errors}")
        _, alive = psutil.wait_procs(family, timeout=END_SECONDS)
        if left := [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]:
            raise SoakError(f"{left} outlived the run")
        if code == 0 and self._struck is not None:
            self._recovered()

    def _code(self, run: subprocess.Popen[str]) -> int:
        """Wait for the end of a run, as long as it makes steps; return its exit code."""
        step, deadline = -1, 0.0
        while (code := run.poll()) is None:
            if (now := self._step()) != step:
                step, deadline = now, time.monotonic() + START_SECONDS
            if time.monotonic() > deadline:
                raise SoakError(f"the run did not end in {START_SECONDS:.0f} s")
            time.sleep(0.01)
        return code

    def _step(self) -> int:
        return newest_step(self.folder)
