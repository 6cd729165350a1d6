"""Runs a study: the unfinished steps of each seed, then figures and table of the seeds so far."""

import time
from dataclasses import replace
from pathlib import Path

from megatron_in2.lab.config import Selection
from megatron_in2.lab.results import report_study
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.seed.plan import steps_of_seed
from megatron_in2.lab.study import Study
from megatron_in2.steps import fingerprint_of, package_files, run_steps


def run_study(study: Study, selection: Selection) -> None:
    """Run the unfinished steps; after each seed, report the seeds so far."""
    started = time.monotonic()
    fingerprint = _fingerprint(study, selection)
    done: list[SeedFolder] = []
    for seed in range(1, selection.seeds + 1):
        home = SeedFolder(selection.home / f"seed{seed}")
        steps = steps_of_seed(study, selection, seed, home)
        run_steps(steps, home.path / ".steps", fingerprint)
        done.append(home)
        table = report_study(study, selection, done)
        minutes = (time.monotonic() - started) / 60
        print(
            f"\n{table}\n{seed} of {selection.seeds} seeds, {minutes:.1f} min; {selection.home}/",
            flush=True,
        )


def _fingerprint(study: Study, selection: Selection) -> str:
    """Return a hash of the package, the study, and the options that change a seed's steps."""
    chosen = replace(selection, seeds=1, home=Path())
    return fingerprint_of(package_files(), repr(study.text), repr(chosen))
