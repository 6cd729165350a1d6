#!/usr/bin/env python3
r"""Speed and memory of composing contexts, writing included.

Example:
    python tools/benchmarks/composition.py --corpus-mb 1000 --samples 100000

The corpus is real prose, repeated to the wanted size; one process composes contexts of 4K to 32K
tokens. The same run also measures the time of writing the same lines when they are already known
(a lower bound), and compares with a demand of 100,000 samples a minute.
"""

import itertools
import json
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.records import Document, QAPair
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.composition.samples import CHUNK_SAMPLES, Asked, sample_maker
from megatron_in2.synthesis.config import CompositionConfig
from megatron_in2.synthesis.corpus.python_texts import python_texts
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.workers import iter_chunks
from megatron_in2.templates.film import FILM
from megatron_in2.tokenizers.load import load_tokenizer

DEMAND_PER_MINUTE = 100_000
QA = QAPair(
    "Which two rivers meet in the town that the treaty of the later empire names?",
    "The Aller and the Weser meet there, shortly before the larger one turns to the sea.",
)


def main() -> None:
    parser = CommandParser(__doc__)
    parser.add_argument("--corpus-mb", type=int, default=1000, help="size of the corpus")
    parser.add_argument("--samples", type=int, default=100_000, help="contexts to compose")
    parser.add_options(CompositionConfig, "shared_run")
    options = parser.read()
    with tempfile.TemporaryDirectory() as folder:
        store = _build_store(Path(folder) / "store", options.corpus_mb * 1_000_000)
        print(
            f"{len(store):,} segments, {store.manifest['tokens']:,} tokens, "
            f"{(store.path / 'text.jsonl').stat().st_size / 1e6:,.0f} MB of text"
        )
        output = Path(folder) / "samples.jsonl"
        seconds = _compose(store, options.samples, options.shared_run, output)
        floor = _write_again(output, Path(folder) / "again.jsonl")
    per_minute = 60 * options.samples / seconds
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(f"{options.samples:,} samples in {seconds:.1f} s of processor time on one core")
    print(f"{per_minute:,.0f} a minute: {per_minute / DEMAND_PER_MINUTE:.2f} x the demand")
    print(f"{seconds / floor:.1f} x the time of writing the same lines alone")
    print(f"{peak_gb:.2f} GB of memory at most")


def _build_store(path: Path, characters: int) -> SegmentStore:
    tokenizer = load_tokenizer("mistral-v1")
    cut = [
        split_into_segments(Document("", text), tokenizer, 128)
        for _, text in itertools.islice(python_texts(), 300)
    ]

    def documents() -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
        written = 0
        for number, segments in enumerate(itertools.cycle(cut)):
            if written >= characters:
                return
            written += sum(len(text) for text, _ in segments)
            yield f"{number:016x}", segments

    return write_store(path, documents(), tokenizer)


def _compose(store: SegmentStore, samples: int, shared_run: int, output: Path) -> float:
    """Compose and write samples; return seconds of processor time."""
    evidence = np.random.default_rng(1).integers(0, len(store), samples)
    asked = (Asked(f"fine_grained/{i}", "fine_grained", (int(i),), QA, 90) for i in evidence)
    started = time.process_time()
    config = CompositionConfig(shared_run=shared_run)
    make = sample_maker(store.path, None, config, 1, FILM.sha256, materialize=False)
    with open(output, "w", encoding="utf-8") as stream:
        for batch in iter_chunks(asked, CHUNK_SAMPLES):
            stream.writelines(sample.line for sample in make(batch))
    return time.process_time() - started


def _write_again(output: Path, again: Path) -> float:
    """Format the same samples as lines and write them; return seconds of processor time."""
    seconds = 0.0
    with open(output, encoding="utf-8") as source, open(again, "w", encoding="utf-8") as stream:
        for lines in iter_chunks(source, CHUNK_SAMPLES):
            records = [json.loads(line) for line in lines]
            started = time.process_time()
            stream.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
            seconds += time.process_time() - started
    return seconds


if __name__ == "__main__":
    run_command(main)
