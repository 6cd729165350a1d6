#!/usr/bin/env python3
"""How evenly a global batch's work is divided among data-parallel ranks, compared with plain order.

Example:
    python tools/benchmarks/balance.py

Simulates 64 packed rows a step of the IN2 length distribution (uniform 4K-32K, with the paper's
share of short samples), Mistral-7B at 32K, and prints max/mean - 1 of all FLOPs.
"""

import numpy as np

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.data.packing.rows.fit import fit_rows
from megatron_in2.training.arithmetic.flops import row_flops
from megatron_in2.training.step.balance import assign_rows, imbalance

SEQ_LENGTH = 32768
SAMPLES = 20_000
ROWS_A_STEP = 64
STEPS = 100
SHORT_SHARE = 0.2  # short-context QA and general instructions, of the paper's 1.75 M
SHORT_TOKENS = (100, 1500)


def main() -> None:
    chance = np.random.default_rng(0)
    is_short = chance.random(SAMPLES) < SHORT_SHARE
    lengths = np.where(
        is_short, chance.integers(*SHORT_TOKENS, SAMPLES), chance.integers(4096, 32769, SAMPLES)
    )
    rows = fit_rows(lengths, np.ones_like(lengths), SEQ_LENGTH)
    squared = np.bincount(rows, lengths**2)
    costs = row_flops(ModelConfig(), SEQ_LENGTH, squared)
    print(f"{len(squared):,} rows, {STEPS} steps of {ROWS_A_STEP} rows; max/mean - 1 of all FLOPs")
    print("| data-parallel ranks | plain order | balanced | worst step, balanced |")
    print("|---|---|---|---|")
    for ranks in (8, 16, 32):
        plain, balanced = [], []
        for _ in range(STEPS):
            step = chance.choice(costs, ROWS_A_STEP, replace=False)
            plain.append(imbalance(step, np.arange(ROWS_A_STEP).reshape(ranks, -1)))
            balanced.append(imbalance(step, assign_rows(step, ranks)))
        print(
            f"| {ranks} | {100 * np.mean(plain):.1f} % | {100 * np.mean(balanced):.2f} % | "
            f"{100 * max(balanced):.2f} % |"
        )


if __name__ == "__main__":
    main()
