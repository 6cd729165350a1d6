#!/usr/bin/env python3
r"""The rows of the paper's whole mixture, planned without their tokens: time, memory, how even.

Example:
    python tools/benchmarks/mixture_plan.py

1.75 million samples get drawn lengths: 4K to 32K tokens for the long kinds; answers are log-normal,
with the medians of film_mixture.py. Packing plans their rows as preprocess_in2.py does. What steps
of 64 rows then hold is compared with a control: the same rows in any order, as a shuffle gives.
"""

import resource
import time
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.packed.manifest import PADDING_KIND
from megatron_in2.data.packed.mixture import Mixture, trained_by_kind
from megatron_in2.data.packed.order import rows_at
from megatron_in2.data.packing.rows.balance import UNIT_ROWS
from megatron_in2.data.packing.rows.plan import RowShape, plan_rows, sequences_of
from megatron_in2.data.packing.rows.pool import POOL_RECORD

SHAPE = RowShape(seq_length=32_768, pad_multiple=16)
ROWS_PER_STEP, SEED = 64, 1234
KINDS = {  # samples, median of the answer in tokens
    "fine_grained": (1_100_000, 60),
    "integration": (300_000, 120),
    "short": (150_000, 60),
    "instruction": (200_000, 180),
}
SHORT = ("short", "instruction")
QUESTION = (50, 100)  # tokens outside context and answer
SHORT_CONTEXT = 600  # median
ANSWER_SPREAD, LONGEST_ANSWER = 1.1, 1500


def main() -> None:
    CommandParser(__doc__).read()
    records = drawn_records(np.random.default_rng(0))
    started = time.process_time()
    plan = plan_rows(records, SHAPE, 0, True)
    sequences = sequences_of(records, plan, SHAPE)
    seconds = time.process_time() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    filled = records["length"].sum(dtype=np.int64) / (plan.rows * SHAPE.seq_length)
    print(f"{len(records):,} samples, {plan.rows:,} rows, {100 * filled:.2f} % filled")
    print(f"planned in {seconds:.1f} s of CPU time, {peak / 1e6:,.0f} MB resident at most")
    rows = sequences.samples["row"].astype(np.int64)
    by_row = trained_by_kind(rows, sequences.samples, plan.rows, 1 + len(KINDS))
    print("| order of the rows | trained tokens of a step, variation | short + instruction |")
    print("|---|---|---|")
    for name, unit_rows in (("as planned", UNIT_ROWS), ("any (control)", 0)):
        mixture = _mixture(by_row, unit_rows)
        shares = mixture.shares(*SHORT)
        print(f"| {name} | {mixture.variation:.3f} | {shares.min():.2f} to {shares.max():.2f} |")


def drawn_records(chance: np.random.Generator) -> npt.NDArray[np.void]:
    """Return what packing knows of the mixture's samples, POOL_RECORD, kind after kind."""
    parts = []
    for code, (kind, (count, median)) in enumerate(KINDS.items(), start=1):
        answers = _log_normal(median, count, chance)
        lengths = answers + chance.integers(*QUESTION, count)
        if kind == "short":
            lengths += _log_normal(SHORT_CONTEXT, count, chance)
        elif kind != "instruction":
            lengths = np.maximum(lengths, chance.integers(4096, SHAPE.seq_length + 1, count))
        part: npt.NDArray[Any] = np.zeros(count, POOL_RECORD)
        part["id_hash"] = chance.integers(0, 2**63, count)
        part["length"], part["learnt_tokens"], part["kind"] = lengths, answers, code
        parts.append(part)
    return np.concatenate(parts)


def _log_normal(median: int, count: int, chance: np.random.Generator) -> npt.NDArray[np.int64]:
    drawn = chance.lognormal(np.log(median), ANSWER_SPREAD, count)
    return np.clip(drawn, 3, LONGEST_ANSWER).astype(np.int64)


def _mixture(by_row: npt.NDArray[np.int64], unit_rows: int) -> Mixture:
    steps = len(by_row) // ROWS_PER_STEP
    rows = rows_at(np.arange(steps * ROWS_PER_STEP), len(by_row), SEED, unit_rows)
    trained = by_row[rows].reshape(steps, ROWS_PER_STEP, -1).sum(axis=1)
    return Mixture([PADDING_KIND, *KINDS], trained)


if __name__ == "__main__":
    run_command(main)
