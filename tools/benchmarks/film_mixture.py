#!/usr/bin/env python3
r"""The paper's mixture, made from synthetic texts and packed: time, memory, disk, how even it is.

Examples:
    python tools/benchmarks/film_mixture.py --folder /scratch/film --scale 0.01
    nice python tools/benchmarks/film_mixture.py --folder /scratch/film --scale 1 --keep

The mixture has 1.75 million samples at --scale 1: recipes (1.1 M fine-grained and 300 K integration
ones of 4K to 32K tokens, 150 K short ones), then 200 K instructions, kind after kind, as
synthesize_in2.py writes them. Their texts are Python's own prose, cut into documents of some 600
tokens; each document is asked about once. Answers have log-normal lengths, with the medians below.
What is measured is preprocess_in2.py alone, from the samples' files to the sealed dataset, and then
what its steps of 64 rows of 32,768 tokens hold.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.inspection.mixture import as_table, epoch_mixture, plot_mixture
from megatron_in2.data.packed.manifest import read_manifest
from megatron_in2.errors import InputError
from megatron_in2.records import Document, JoinedPart
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.composition.compose import Composer
from megatron_in2.synthesis.corpus.python_texts import python_texts
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.templates.base import Turn
from megatron_in2.templates.film import FILM
from megatron_in2.templates.ids import count_tokens
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]
SEQ_LENGTH, ROWS_PER_STEP, SEED = 32_768, 64, 1234
SHORTEST, LONGEST = 4096, 32_768  # tokens of a long sample
SEGMENT_TOKENS = 128
DOCUMENT_TOKENS, DOCUMENT_SPREAD = 500, 0.6  # median and log-normal sigma; the mean is near 600
ANSWER_SPREAD, LONGEST_ANSWER = 1.1, 1500
PROSE = 1500  # texts that documents are cut from
ANSWERS = 4096  # different ones of each kind
BYTES = 79e9  # of everything, at scale 1
RESERVED_BYTES = 5e9  # that stay free


@dataclass(frozen=True)
class Kind:
    """Samples of one kind at scale 1, and the median of their answers in tokens."""

    name: str
    samples: int
    answer_tokens: int


LONG = (Kind("fine_grained", 1_100_000, 60), Kind("integration", 300_000, 120))
SHORT = (Kind("short", 150_000, 60), Kind("instruction", 200_000, 180))


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="an empty or new folder for all files")
    add("--scale", type=float, default=0.01, help="share of the mixture's samples")
    add("--workers", type=int, default=2, help="of preprocess_in2.py")
    add("--keep", action="store_true", help="do not remove the folder at the end")
    options = parser.read()
    folder: Path = options.folder
    _require_space(folder, options.scale)
    try:
        started = time.perf_counter()
        make_samples(folder, options.scale, load_tokenizer(MISTRAL_V1))
        print(f"made in {time.perf_counter() - started:,.0f} s", flush=True)
        usage = packed(folder, options.workers)
        report(folder, options.scale, usage)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)


def _require_space(folder: Path, scale: float) -> None:
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"--folder {folder} is not empty: name a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < BYTES * scale + RESERVED_BYTES:
        raise InputError(
            f"--scale {scale} takes about {BYTES * scale / 1e9:.0f} GB, {free / 1e9:.0f} GB are "
            "free: use a smaller --scale"
        )


def make_samples(folder: Path, scale: float, tokenizer: Tokenizer) -> None:
    """Write ``samples.jsonl`` and its segment store into a folder."""
    recipes = [*LONG, SHORT[0]]
    documents = sum(_count(kind, scale) for kind in recipes)
    store = write_store(folder / "segments", _documents(documents, tokenizer), tokenizer)
    with open(folder / "samples.jsonl", "w", encoding="utf-8") as stream:
        for record in _records(recipes, store, tokenizer, scale):
            stream.write(json.dumps(record) + "\n")


def _count(kind: Kind, scale: float) -> int:
    return max(int(kind.samples * scale), 1)


def _documents(
    count: int, tokenizer: Tokenizer
) -> Iterator[tuple[str, list[tuple[str, list[int]]]]]:
    """Yield documents of prose, of log-normal lengths, over and over."""
    texts = (text for _, text in itertools.islice(python_texts(), PROSE))
    lines = [line for text in texts for line in text.split("\n") if line.strip()]
    lengths = [len(ids) + 1 for ids in tokenizer.encode_lines(lines)]
    ends = np.cumsum(lengths)
    chance = np.random.default_rng(0)
    cut: list[list[tuple[str, list[int]]]] = []
    start = 0
    while start < len(lines):
        size = chance.lognormal(np.log(DOCUMENT_TOKENS), DOCUMENT_SPREAD)
        end = int(np.searchsorted(ends, ends[start] + size)) + 1
        document = Document("", "\n".join(lines[start:end]))
        cut.append(split_into_segments(document, tokenizer, SEGMENT_TOKENS))
        start = end
    for number, segments in enumerate(itertools.islice(itertools.cycle(cut), count)):
        yield f"{number:016x}", segments


def _records(
    recipes: list[Kind], store: SegmentStore, tokenizer: Tokenizer, scale: float
) -> Iterator[dict[str, Any]]:
    """Yield all samples, kind after kind."""
    chance = np.random.default_rng(1)
    composer = Composer(store, SHORTEST, LONGEST)
    firsts = np.flatnonzero(np.diff(np.asarray(store.documents), prepend=-1))
    borders = np.append(firsts, len(store)).tolist()
    document = 0
    for kind in recipes:
        pairs = _pairs(kind, tokenizer, chance)
        for index in range(_count(kind, scale)):
            question, answer, frame = pairs[int(chance.integers(len(pairs)))]
            evidence = list(range(borders[document], borders[document + 1]))
            document += 1
            if kind.name == "fine_grained":
                evidence = evidence[:1]
            if kind in LONG:
                segments, slots, length = composer.compose(evidence, frame, chance)
            else:
                segments, slots = evidence, list(range(len(evidence)))
                length = composer.needed_tokens(evidence, frame)
            yield {
                "id": f"{kind.name}/{index:x}",
                "kind": kind.name,
                "store": store.path.name,
                "segments": segments,
                "evidence": slots,
                "question": question,
                "answer": answer,
                "n_tokens": length,
            }
    kind = SHORT[1]
    pairs = _pairs(kind, tokenizer, chance)
    for index in range(_count(kind, scale)):
        question, answer, _ = pairs[int(chance.integers(len(pairs)))]
        turns = [("user", question), ("assistant", answer)]
        messages = [{"role": role, "content": content} for role, content in turns]
        yield {"id": f"{kind.name}/{index:x}", "kind": kind.name, "messages": messages}


def _pairs(
    kind: Kind, tokenizer: Tokenizer, chance: np.random.Generator
) -> list[tuple[str, str, int]]:
    """Return (question, answer, tokens of a recipe outside its context)."""
    words = " ".join(text for _, text in itertools.islice(python_texts(), 300)).split()
    sizes = chance.lognormal(np.log(kind.answer_tokens), ANSWER_SPREAD, ANSWERS)
    pairs = []
    for size in np.clip(sizes, 3, LONGEST_ANSWER).astype(int).tolist():
        start = int(chance.integers(len(words) - LONGEST_ANSWER - 50))
        asked = words[start : start + int(chance.integers(5, 25))]
        question = f"What is said of {' '.join(asked)}?"
        ids = tokenizer.encode(" ".join(words[start + 25 : start + 25 + size]))[:size]
        answer = tokenizer.decode(ids).strip() or "Nothing."
        before, after = FILM.wording.around_context(question)
        recipe = JoinedPart(before, Path(), (), after)  # counted without its segments
        parts = FILM.parts(None, [Turn(recipe, answer)])
        pairs.append((question, answer, count_tokens(parts, tokenizer)))
    return pairs


@dataclass(frozen=True)
class Usage:
    """What packing took; memory in bytes: of all processes together, at most."""

    wall_seconds: float
    cpu_seconds: float
    resident: int
    private: int


def packed(folder: Path, workers: int) -> Usage:
    """Pack the samples by the command itself.

    Raises:
        InputError: it fails.
    """
    command = [sys.executable, str(ROOT / "tools" / "preprocess_in2.py")]
    command += ["--input", str(folder / "samples.jsonl"), "--output-prefix", str(folder / "in2")]
    command += ["--tokenizer-model", MISTRAL_V1, "--seq-length", str(SEQ_LENGTH)]
    command += ["--workers", str(workers)]
    before, started = os.times(), time.perf_counter()
    resident = private = 0
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            sizes = [_memory(each) for each in _family(process.pid)]
            resident = max(resident, sum(size for size, _ in sizes))
            private = max(private, sum(size - shared for size, shared in sizes))
            time.sleep(0.2)
    wall, after = time.perf_counter() - started, os.times()
    if process.returncode:
        raise InputError(f"preprocess_in2.py ended with exit code {process.returncode}")
    user = after.children_user - before.children_user
    system = after.children_system - before.children_system
    return Usage(wall, user + system, resident, private)


def _family(pid: int) -> list[psutil.Process]:
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _memory(process: psutil.Process) -> tuple[int, int]:
    """Return (resident, of it shared with files) bytes; zeros of a process that has ended."""
    try:
        memory = process.memory_info()
    except psutil.Error:
        return 0, 0
    return memory.rss, memory.shared


def report(folder: Path, scale: float, usage: Usage) -> None:
    """Print what packing took and what came of it; draw the mixture beside the dataset."""
    prefix = folder / "in2"
    manifest = read_manifest(prefix)
    mixture = epoch_mixture(prefix, ROWS_PER_STEP, SEED)
    together = [kind.name for kind in SHORT]
    shares = mixture.shares(*together)
    share = f"{shares.min():.2f} to {shares.max():.2f}"
    print("| | |\n|---|---|")
    for name, value in (
        ("scale", f"{scale:g}: {manifest.samples:,} samples, {manifest.tokens / 1e9:.2f} G tokens"),
        ("rows of 32,768, filled", f"{manifest.rows:,}, {100 * manifest.packing_efficiency:.2f} %"),
        ("wall time", f"{usage.wall_seconds:,.0f} s"),
        ("CPU time, all processes", f"{usage.cpu_seconds:,.0f} s"),
        ("tokens per CPU second", f"{manifest.tokens / usage.cpu_seconds / 1e6:.1f} M"),
        ("memory at most, mapped files left out", f"{usage.private / 1e6:,.0f} MB"),
        ("resident at most, mapped files counted", f"{usage.resident / 1e6:,.0f} MB"),
        ("disk: samples, their store, dataset", _disk(folder)),
        ("trained tokens of a 64-row step, coefficient of variation", f"{mixture.variation:.3f}"),
        ("share of short + instruction in a step's trained tokens", share),
    ):
        print(f"| {name} | {value} |")
    print(as_table(mixture, ROWS_PER_STEP, together))
    plot_mixture(mixture, folder / "mixture.png")


def _disk(folder: Path) -> str:
    samples = _on_disk([folder / "samples.jsonl"])
    store = _on_disk(list((folder / "segments").iterdir()))
    dataset = _on_disk([path for path in folder.iterdir() if path.name.startswith("in2")])
    return ", ".join(f"{size / 1e9:.1f} GB" for size in (samples, store, dataset))


def _on_disk(paths: list[Path]) -> int:
    """Return the bytes that files take, holes left out."""
    return sum(path.stat().st_blocks * 512 for path in paths)


if __name__ == "__main__":
    run_command(main)
