"""A run under a seeded schedule of faults: in the end every loss is bitwise the undisturbed run's.

    python -m tests.soak.soak --faults 300 --seed 1

Three quarters of the faults hit plain processes, the others a job on virtual Slurm, where Slurm is
installed. Exit code 1 with the reason if anything is not as it must be.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.slurm.cluster import missing_daemons
from tests.soak import process_soak, slurm_soak
from tests.soak.common import Ledger, SoakError, require_equal, write_run

SLURM_SHARE = 0.25


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    on_slurm = 0 if missing_daemons() else round(options.faults * SLURM_SHARE)
    if not on_slurm:
        print("Slurm is not installed: plain processes only")
    kinds = schedule(process_soak.KINDS, options.faults - on_slurm, chance)
    with tempfile.TemporaryDirectory(prefix="soak-") as home:
        try:
            print(soak_processes(Path(home) / "processes", kinds, chance).table())
            if on_slurm:
                kinds = schedule(list(slurm_soak.KINDS), on_slurm, chance)
                print(soak_slurm(Path(home) / "slurm", kinds, chance).table())
        except SoakError as error:
            sys.exit(f"soak: {error}")


if __name__ == "__main__":
    main()
