#!/usr/bin/env python3
"""Speed of turning one rank's rows into batches, and time of opening a dataset, by size.

Example:
    python tools/benchmarks/data_loading.py

Writes packed datasets of random tokens (removed at the end) and reads them from the page cache
through the trainer's own code: the order of a global batch of 64 rows, its attention costs, the
division among ranks, then each row's bytes to a batch of tensors. The figure is the median of
several global batches, beside the target of 20 M tokens/s a rank. Opening is timed in a process
that is already warm, with datasets of 10,000, 100,000 and 1,000,000 rows. Their rows are short,
because opening reads no tokens.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from megatron_in2.architectures.config import ModelConfig
from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.packed.manifest import PARTS, part_path
from megatron_in2.data.packed.random_rows import write_random_rows
from megatron_in2.parallel.config import ParallelConfig
from megatron_in2.parallel.rank import SINGLE_RANK
from megatron_in2.parallel.world import World, open_world
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer
from megatron_in2.training.arithmetic.flops import row_flops
from megatron_in2.training.step.balance import assign_rows
from megatron_in2.training.step.batch import make_batch
from megatron_in2.training.step.rows import TrainingRows

TARGET = 20e6  # tokens/s a rank
BATCH_ROWS = 64
LEARNT_SHARE = 0.02
SHORT_ROW = 16  # tokens in a row, where only opening is timed
OPENINGS = 7


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--seq-length", type=int, default=32768, help="tokens a row")
    parser.add_argument("--rows", type=int, default=256, help="rows of each dataset that is read")
    parser.add_argument("--batches", type=int, default=9, help="global batches that are timed")
    parser.add_argument(
        "--sizes", type=list[int], default=[10**4, 10**5, 10**6], help="rows of those opened"
    )
    options = parser.read()
    tokenizer = load_tokenizer(MISTRAL_V1)
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "rows"
        _report_reading(prefix, tokenizer, options.seq_length, options.rows, options.batches)
        _report_opening(prefix, tokenizer, options.sizes)


def _report_reading(
    prefix: Path, tokenizer: Tokenizer, seq_length: int, rows: int, batches: int
) -> None:
    print(f"rows of {seq_length:,} tokens, {BATCH_ROWS} a global batch, one rank, median")
    print("| samples a row | tokens/s | x target | ms a row |")
    print("|---|---|---|---|")
    for samples in (1, 4, 256):
        write_random_rows(prefix, tokenizer, rows, [seq_length // samples] * samples, LEARNT_SHARE)
        dataset = TrainingRows(str(prefix), seed=0)
        with open_world(ParallelConfig(), SINGLE_RANK, seed=0) as world:
            times = [
                _seconds_of_batch(dataset, world, seq_length, batch) for batch in range(batches + 1)
            ][1:]  # the first one fills the page cache
        seconds = statistics.median(times)
        speed = BATCH_ROWS * seq_length / seconds
        print(
            f"| {samples} | {speed / 1e6:.1f} M | {speed / TARGET:.2f} | "
            f"{1000 * seconds / BATCH_ROWS:.2f} |",
            flush=True,
        )


def _seconds_of_batch(dataset: TrainingRows, world: World, seq_length: int, batch: int) -> float:
    """Do what a training step does before the model gets its rows."""
    started = time.perf_counter()
    places = dataset.at(batch * BATCH_ROWS + np.arange(BATCH_ROWS))
    costs = row_flops(ModelConfig(), seq_length, dataset.attention_costs(places))
    for index in assign_rows(costs, world.data_size)[world.data_rank]:
        make_batch(dataset[places[index]], world)
    return time.perf_counter() - started


def _report_opening(prefix: Path, tokenizer: Tokenizer, sizes: list[int]) -> None:
    print("\nopening a dataset and naming its first global batch, median")
    print("| rows | files | ms | x the smallest |")
    print("|---|---|---|---|")
    smallest = 0.0
    for rows in sizes:
        write_random_rows(prefix, tokenizer, rows, [SHORT_ROW], LEARNT_SHARE)
        size = sum(part_path(prefix, part).stat().st_size for part in PARTS)
        seconds = statistics.median(_seconds_to_open(prefix) for _ in range(OPENINGS))
        smallest = smallest or seconds
        print(
            f"| {rows:,} | {size / 1e6:.0f} MB | {1000 * seconds:.2f} | {seconds / smallest:.2f} |",
            flush=True,
        )


def _seconds_to_open(prefix: Path) -> float:
    started = time.perf_counter()
    TrainingRows(str(prefix), seed=0).at(np.arange(BATCH_ROWS))
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(main)
