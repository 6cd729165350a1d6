"""The soak in small, and its control: a fault that nothing repairs makes it fail."""

import json
import os
import random
from pathlib import Path

import pytest

from tests.slurm.cluster import missing_daemons
from tests.soak import process_soak, slurm_soak
from tests.soak.common import Ledger, SoakError
from tests.soak.soak import (
    PROCESSES,
    ROUND,
    SLURM,
    SLURM_SHARE,
    read_account,
    rounds,
    schedule,
    soak_processes,
    soak_slurm,
    total,
)

FAULTS = int(os.environ.get("FAULTS", "12"))
ON_SLURM = round(FAULTS * SLURM_SHARE)


def test_the_schedule_has_every_kind_and_is_that_of_its_seed() -> None:
    kinds = ["a", "b", "c"]
    found = schedule(kinds, 8, random.Random(1))
    assert sorted(found[:3]) == sorted(found[3:6]) == kinds
    assert found == schedule(kinds, 8, random.Random(1))
    assert len({tuple(schedule(kinds, 8, random.Random(seed))) for seed in range(9)}) > 1


def test_the_table_counts_faults_and_gives_the_median() -> None:
    ledger = Ledger(undisturbed=10.0)
    for seconds in (1.0, 2.0, 9.0):
        ledger.note("SIGKILL of a rank", seconds)
    ledger.steps, ledger.seconds = 5, 40.0
    assert "| SIGKILL of a rank | 3 | 2.0 |" in ledger.table()
    assert "ETTR 25.0% with a fault every 13 s" in ledger.table()


def test_rounds_have_all_faults_and_seeds_of_their_own() -> None:
    found = rounds(300, 1, has_slurm=True)
    faults = {where: [each.faults for each in found if each.where == where] for where in ROUND}
    assert {where: sum(sizes) for where, sizes in faults.items()} == {PROCESSES: 225, SLURM: 75}
    assert all(max(faults[where]) <= ROUND[where] for where in ROUND)
    assert len({each.seed for each in found}) == len(found)
    assert sum(each.faults for each in rounds(300, 1, has_slurm=False)) == 300


def test_the_account_sums_up_what_is_done(tmp_path: Path) -> None:
    account, ledger = tmp_path / "account.jsonl", Ledger(undisturbed=10.0, steps=5, seconds=40.0)
    ledger.note("SIGKILL of a rank", 2.0)
    assert not read_account(account)
    lines = [json.dumps({"seed": seed, **ledger.record()}) for seed in ("1/a/0", "1/a/1")]
    account.write_text("\n".join(lines))
    found = read_account(account)
    assert list(found) == ["1/a/0", "1/a/1"]
    table = total(found.values()).table()
    assert "| SIGKILL of a rank | 2 | 2.0 |" in table
    assert "10 losses and gradient norms" in table
    assert "ETTR 25.0%" in table


@pytest.mark.slow
def test_processes_survive_faults_with_all_losses_bitwise_the_same(tmp_path: Path) -> None:
    chance = random.Random(FAULTS)
    kinds = schedule(process_soak.KINDS, FAULTS - ON_SLURM, chance)
    print(soak_processes(tmp_path, kinds, chance).table())


@pytest.mark.slow
def test_a_job_survives_faults_with_all_losses_bitwise_the_same(tmp_path: Path) -> None:
    if missing := missing_daemons():
        pytest.skip(f"no {missing[0]} here: make test SLURM=1 installs Slurm on Debian, as root")
    chance = random.Random(FAULTS)
    kinds = schedule(list(slurm_soak.KINDS), ON_SLURM, chance)
    print(soak_slurm(tmp_path, kinds, chance).table())


@pytest.mark.slow
def test_a_change_that_nothing_can_notice_makes_the_soak_fail(tmp_path: Path) -> None:
    kinds = ["SIGTERM of a rank", process_soak.UNNOTICED]
    with pytest.raises(SoakError, match=r"^step [0-9]+: .* instead of"):
        soak_processes(tmp_path, kinds, random.Random(1))
