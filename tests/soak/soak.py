"""A run under a seeded schedule of faults: in the end every loss is bitwise the undisturbed run's.

    python -m tests.soak.soak --faults 300 --seed 1

Three quarters of the faults hit plain processes, the others a job on virtual Slurm, where Slurm is
installed. They come in rounds: each disturbs a run of its own and ends in a comparison. The rounds
that are done are in an account file: a soak that was stopped continues after them, and the table
sums up all of the file. Exit code 1 with the reason if anything is not as it must be.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT
from tests.slurm.cluster import missing_daemons
from tests.soak import process_soak, slurm_soak
from tests.soak.common import Ledger, SoakError, require_equal, write_run

SLURM_SHARE = 0.25
PROCESSES, SLURM = "processes", "slurm"
ROUND = {PROCESSES: 30, SLURM: 11}  # faults


def schedule(kinds: Sequence[str], faults: int, chance: random.Random) -> list[str]:
    """Return so many faults: every kind comes, in another order each time."""
    found: list[str] = []
    while len(found) < faults:
        found += chance.sample(kinds, len(kinds))
    return found[:faults]


def soak_processes(folder: Path, kinds: Sequence[str], chance: random.Random) -> Ledger:
    """Disturb plain processes; compare with a run that is left alone.

    Args:
        folder: an empty directory.
        kinds: the faults, in their order.
        chance: decides who is hit, and when.

    Raises:
        SoakError: something was not as it must be.
    """
    config = write_run(folder, process_soak.STEPS_PER_FAULT * (len(kinds) + 1))
    ledger = _undisturbed(config, folder, chance)
    process_soak.ProcessSoak(config, folder / "disturbed", chance, ledger).run(kinds)
    ledger.end(require_equal(folder / "undisturbed", folder / "disturbed"))
    return ledger


def soak_slurm(folder: Path, kinds: Sequence[str], chance: random.Random) -> Ledger:
    """Disturb a Slurm job; compare with local ranks that are left alone. See soak_processes."""
    config = write_run(folder, slurm_soak.STEPS_PER_FAULT * (len(kinds) + 1))
    ledger = _undisturbed(config, folder, chance)
    slurm_soak.soak_on_slurm(config, folder / "disturbed", kinds, chance, ledger)
    ledger.end(require_equal(folder / "undisturbed", folder / "disturbed"))
    return ledger


def _undisturbed(config: Path, folder: Path, chance: random.Random) -> Ledger:
    started = time.monotonic()
    process_soak.ProcessSoak(config, folder / "undisturbed", chance).run([])
    return Ledger(time.monotonic() - started)


@dataclass(frozen=True)
class Round:
    """Some faults of one run, which ends in a comparison.

    Args:
        where: PROCESSES or SLURM.
        seed: decides the faults' order, who is hit, and when.
        faults: how many.
    """

    where: str
    seed: str
    faults: int

    def soak(self, folder: Path) -> Ledger:
        """Disturb a run in an empty directory. Raises SoakError: see soak_processes."""
        chance = random.Random(self.seed)
        if self.where == SLURM:
            return soak_slurm(folder, schedule(list(slurm_soak.KINDS), self.faults, chance), chance)
        return soak_processes(folder, schedule(process_soak.KINDS, self.faults, chance), chance)


def rounds(faults: int, seed: int, has_slurm: bool) -> list[Round]:
    """Divide faults into runs of a quarter of an hour or so, those of both kinds in turn."""
    on_slurm = round(faults * SLURM_SHARE) if has_slurm else 0
    found = []
    for where, left in ((PROCESSES, faults - on_slurm), (SLURM, on_slurm)):
        sizes = [min(ROUND[where], left - begun) for begun in range(0, left, ROUND[where])]
        found += [
            ((number + 0.5) / len(sizes), Round(where, f"{seed}/{where}/{number}", size))
            for number, size in enumerate(sizes)
        ]
    return [each for _, each in sorted(found, key=lambda pair: pair[0])]


def read_account(path: Path) -> dict[str, Ledger]:
    """Return what has happened in the rounds that are done, by their seed."""
    lines = path.read_text().splitlines() if path.exists() else []
    records = map(json.loads, lines)
    return {record.pop("seed"): Ledger(**record) for record in records}


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """Return the sum of some rounds."""
    found = Ledger()
    for each in ledgers:
        found.add(each)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--account", type=Path, default=ROOT / "runs" / "soak" / "account.jsonl")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("soak: stopped by SIGTERM"))
    options.account.parent.mkdir(parents=True, exist_ok=True)
    has_slurm = not missing_daemons()
    if not has_slurm:
        print("Slurm is not installed: plain processes only")
    for each in rounds(options.faults, options.seed, has_slurm):
        if each.seed in read_account(options.account):
            continue
        with tempfile.TemporaryDirectory(prefix="soak-") as home:
            try:
                ledger = each.soak(Path(home) / each.where)
            except SoakError as error:
                sys.exit(f"soak: round {each.seed}: {error}")
        with open(options.account, "a") as stream:
            stream.write(json.dumps({"seed": each.seed, **ledger.record()}) + "\n")
        print(f"round {each.seed} is done", flush=True)
    print(total(read_account(options.account).values()).table())


if __name__ == "__main__":
    main()
