#!/usr/bin/env python3
r"""Speed of preprocess_in2.py, compared with the tokenizer's library and a Megatron-style peer.

Examples:
    python tools/benchmarks/preprocessing.py text --corpus DIR ... --megabytes 100 --workers 2
    python tools/benchmarks/preprocessing.py recipes --corpus DIR ... --samples 2000
    python tools/benchmarks/preprocessing.py text --corpus DIR ... --tokenizer-model BASE \
        --template chatml
    python tools/benchmarks/preprocessing.py open
    python tools/benchmarks/preprocessing.py memory --corpus DIR ... --samples 1000000

"text" and "recipes" run three things on the same samples, one after the other: the tokenizer's
library alone (SentencePiece, or tokenizers in batches) on texts already in memory; a peer with the
shape of Megatron-LM's preprocess_data.py (a process pool, the library, IndexedDatasetBuilder; no
mask, no packing), from JSON to files; ours, from JSON to files. Ids are compared. On a shared
machine, compare the ratios. The template is one whose marks are text.
"""

import itertools
import json
import multiprocessing
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers

from megatron_in2.commands.parser import CommandParser, run_command
from megatron_in2.data.packed.manifest import Manifest
from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.errors import InputError
from megatron_in2.records import Document, JoinedPart, id_hash
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.templates.base import Turn
from megatron_in2.templates.film import FILM
from megatron_in2.templates.ids import count_tokens
from megatron_in2.templates.load import load_template
from megatron_in2.templates.text import InstructionTemplate
from megatron_in2.tokenizers.base import Tokenizer, token_dtype
from megatron_in2.tokenizers.load import MISTRAL_V1, load_tokenizer

SUFFIXES = {".txt", ".md", ".rst", ".py", ".jsonl", ".html"}
DOCUMENT = 20_000  # characters taken from a file at most, so that texts vary
MAX_CONTEXT = 40_000  # characters, so that every sample fits a row
ROW = 32_768
LONG_ROW = 131_072  # accepts a context of any characters


def main() -> None:
    parser = CommandParser(__doc__)
    add = parser.add_argument
    add("what", choices=list(_BENCHMARKS), help="which benchmark")
    add("--corpus", nargs="+", default=[], help="folders with text files")
    add("--megabytes", type=int, default=100, help="text: size of the samples' texts")
    add("--samples", type=int, default=2000, help="recipes, memory: number of samples")
    add("--peer-samples", type=int, default=200, help="recipes: samples of the slow peers")
    add("--workers", type=int, default=2, help="processes of each competitor")
    add("--folder", default=None, help="where the files are written")
    add("--tokenizer-model", default=MISTRAL_V1, help="a base's directory, or a SentencePiece file")
    add("--template", default="film", help="of the samples")
    options = parser.read()
    os.environ["RAYON_NUM_THREADS"] = str(
        options.workers
    )  # read when tokenizers starts its threads
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        _BENCHMARKS[options.what](options, Path(folder))


def _text(options: Any, folder: Path) -> None:
    path = folder / "samples.jsonl"
    chance, total, count = random.Random(0), 0, 0
    with open(path, "w", encoding="utf-8") as stream:
        documents = _documents(options.corpus)
        while total < options.megabytes * 1_000_000:
            context = "\n".join(itertools.islice(documents, chance.randint(1, 4)))[:MAX_CONTEXT]
            if not context:
                break
            record = {"id": f"t{count}", "kind": "k", "context": context}
            record |= {"question": "What is told?", "answer": context[:80].strip() or "Nothing."}
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            total, count = total + len(context), count + 1
    print(f"{count:,} samples, {total / 1e6:.0f} M characters of text")
    if total < options.megabytes * 1_000_000:
        print(f"the corpus holds less than {options.megabytes} MB: a shorter steady state")
    _compare(path, options, folder, LONG_ROW, count, None)


def _recipes(options: Any, folder: Path) -> None:
    tokenizer = load_tokenizer(options.tokenizer_model)
    store, seconds = _store(options.corpus, tokenizer, folder / "store")
    print(
        f"segments tokenised once: {store.lengths.sum():,} tokens in {seconds:.1f} s, "
        f"{store.lengths.sum() / seconds / 1e6:.2f} M tokens/s"
    )
    path = folder / "recipes.jsonl"
    _write_recipes(path, store, tokenizer, options.samples, lambda _: ROW)
    _compare(path, options, folder, ROW, options.peer_samples, store)


def _compare(
    path: Path,
    options: Any,
    folder: Path,
    row: int,
    peer_samples: int,
    store: SegmentStore | None,
) -> None:
    workers, template = options.workers, load_template(options.template)
    assert isinstance(template, InstructionTemplate), "of the kind whose marks are text"
    texts = folder / "texts.jsonl"  # the peers read the samples' whole text
    hashes = []
    with open(path, encoding="utf-8") as lines, open(texts, "w", encoding="utf-8") as stream:
        for line in itertools.islice(lines, peer_samples):
            record = json.loads(line)
            context = record.get("context") or "\n".join(map(store.text, record["segments"]))  # type: ignore[union-attr]
            message = template.wording.message(record["question"], context)
            text = [template.prompt_text(message), record["answer"] + template.answer_end]
            stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
            hashes.append(id_hash(record["id"]))
    encode = _library(options.tokenizer_model, workers)
    with open(texts, encoding="utf-8") as lines:
        parts = [part for line in lines for part in json.loads(line)["text"]]
    alone = _timed(lambda: sum(map(len, encode(parts))))
    parts.clear()
    peer = _timed(lambda: _peer(texts, folder / "peer", options))
    ours = _timed(lambda: _ours(path, folder / "ours", options, row))
    _disk_speed(folder, ours)
    for name, (tokens, seconds, cpu) in (
        (f"library alone, {workers} threads", alone),
        (f"peer, {workers} processes", peer),
        (f"ours, {workers} workers", ours),
    ):
        print(
            f"{name:<34} {tokens:>13,} tokens {tokens / seconds / 1e6:7.2f} M tokens/s "
            f"({_ratios(tokens / seconds, alone[0] / alone[1], peer[0] / peer[1])})  "
            f"{tokens / cpu / 1e6:7.2f} M tokens per CPU second "
            f"({_ratios(tokens / cpu, alone[0] / alone[2], peer[0] / peer[2])})"
        )
    expected = dict(zip(hashes, _peer_ids(folder / "peer"), strict=True))
    same = _ids_by_sample(folder / "ours", expected) == expected
    print("ids are identical to the library's" if same else "IDS DIFFER")
    if not same:
        sys.exit(1)


def _ratios(rate: float, alone: float, peer: float) -> str:
    return f"{rate / alone:.2f} x library, {rate / peer:.2f} x peer"


def _timed(run: Callable[[], int]) -> tuple[int, float, float]:
    """Return the tokens, the seconds, and the CPU seconds of this process and its children."""
    started, cpu = time.perf_counter(), _cpu_seconds()
    tokens = run()
    return tokens, time.perf_counter() - started, _cpu_seconds() - cpu


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _library(tokenizer_model: str, threads: int) -> Callable[[list[str]], list[list[int]]]:
    """Return what encodes texts with the tokenizer's own library, on several threads."""
    path = load_tokenizer(tokenizer_model).path
    if path.suffix != ".json":
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        return lambda texts: model.encode(texts, num_threads=threads)
    library = tokenizers.Tokenizer.from_file(str(path))
    library.encode_special_tokens = True

    def encode(texts: list[str]) -> list[list[int]]:
        return [each.ids for each in library.encode_batch_fast(texts, add_special_tokens=False)]

    return encode


_encode: Callable[[list[str]], list[list[int]]]
_frame: tuple[list[int], list[int]]  # begin- and end-of-sequence


def _start_peer(tokenizer_model: str) -> None:
    global _encode, _frame
    os.environ["RAYON_NUM_THREADS"] = "1"
    tokenizer = load_tokenizer(tokenizer_model)
    _encode = _library(tokenizer_model, 1)
    _frame = ([] if tokenizer.bos_id is None else [tokenizer.bos_id], [tokenizer.eos_id])


def _encode_peer(line: str) -> list[int]:
    prompt, answer = _encode(json.loads(line)["text"])
    return [*_frame[0], *prompt, *answer, *_frame[1]]


def _peer(texts: Path, prefix: Path, options: Any) -> int:
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    tokens = 0
    dtype = token_dtype(load_tokenizer(options.tokenizer_model).vocab_size)
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype)
    arguments = (options.tokenizer_model,)
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(options.workers, _start_peer, arguments) as pool,
        open(texts, encoding="utf-8") as lines,
    ):
        for ids in pool.imap(_encode_peer, lines, 32):
            builder.add_document(torch.tensor(ids, dtype=torch.int32), [len(ids)])
            tokens += len(ids)
    builder.finalize(f"{prefix}.idx")
    return tokens


def _ours(path: Path, prefix: Path, options: Any, row: int) -> int:
    config = PreprocessConfig(
        [path],
        prefix,
        options.tokenizer_model,
        row,
        template=options.template,
        overlong="drop",
        workers=options.workers,
    )
    manifest: Manifest = preprocess(config)["train"]
    if manifest.dropped:
        raise InputError(f"{manifest.dropped} dropped: the comparison would not be of all samples")
    print(f"{100 * manifest.packing_efficiency:.2f} % of the rows is filled")
    return manifest.tokens


def _disk_speed(folder: Path, ours: tuple[int, float, float]) -> None:
    """Compare our bytes written a second with plain sequential writing of as many bytes."""
    written = sum(path.stat().st_size for path in folder.glob("ours*"))
    block = os.urandom(1 << 22)
    started = time.perf_counter()
    with open(folder / "plain", "wb", 0) as stream:
        for _ in range(written // len(block)):
            stream.write(block)
        os.fsync(stream.fileno())
    plain = written / (time.perf_counter() - started)
    (folder / "plain").unlink()
    rate = written / ours[1]
    print(
        f"disk: plain writing {plain / 1e6:,.0f} MB/s, ours {rate / 1e6:,.0f} MB/s "
        f"({100 * rate / plain:.0f} %)"
    )


def _ids_by_sample(prefix: Path, wanted: Container[int]) -> dict[int, bytes]:
    from megatron_in2.data.packed.dataset import PackedDataset

    data, found = PackedDataset(prefix), {}
    for index in range(len(data)):
        row = data[index]
        starts = np.cumsum([0, *row.lengths[:-1]])
        for start, record in zip(starts, row.records, strict=True):
            if (key := int(record["id_hash"])) in wanted:
                size = int(record["length"])
                found[key] = row.tokens[start : start + size].tobytes()
    return found


def _peer_ids(prefix: Path) -> Iterator[bytes]:
    from megatron.core.datasets.indexed_dataset import IndexedDataset

    data = IndexedDataset(str(prefix))
    for index in range(len(data)):
        yield data[index].astype(np.int64).tobytes()


def _documents(folders: list[str]) -> Iterator[str]:
    """Yield real texts from many files in random order, each once."""
    paths = sorted(
        path for folder in folders for path in Path(folder).rglob("*") if path.suffix in SUFFIXES
    )
    if not paths:
        raise InputError("--corpus names no folder with text files")
    random.Random(1).shuffle(paths)
    seen = set()
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        for start in range(0, len(text), DOCUMENT):
            piece = text[start : start + DOCUMENT]
            if piece.strip() and hash(piece) not in seen:
                seen.add(hash(piece))
                yield piece


def _store(folders: list[str], tokenizer: Tokenizer, path: Path) -> tuple[SegmentStore, float]:
    started = time.perf_counter()
    texts = itertools.islice(_documents(folders), 2000)
    documents = (Document(str(number), text) for number, text in enumerate(texts))
    cut = ((each.id, split_into_segments(each, tokenizer, 128)) for each in documents)
    store = write_store(path, cut, tokenizer)
    return store, time.perf_counter() - started


def _write_recipes(
    path: Path,
    store: SegmentStore,
    tokenizer: Tokenizer,
    count: int,
    target: Callable[[np.random.Generator], int],
) -> None:
    chance, costs = np.random.default_rng(0), np.asarray(store.lengths) + store.line_end_tokens
    before, after = FILM.wording.around_context("What is told?")
    turn = Turn(JoinedPart(before, store.path, (), after), "Nothing.")
    frame = count_tokens(FILM.parts(None, [turn]), tokenizer)
    small = np.flatnonzero(costs < 1000)
    with open(path, "w", encoding="utf-8") as stream:
        for index in range(count):
            budget = target(chance) - frame
            drawn = chance.choice(small, max(budget // 100, 1))
            chosen = drawn[: max(int((np.cumsum(costs[drawn]) <= budget).sum()), 1)]
            record = {
                **{"id": f"r{index}", "kind": "fine_grained", "store": store.path.name},
                **{"segments": chosen.tolist(), "evidence": [len(chosen) // 2]},
                **{"question": "What is told?", "answer": "Nothing."},
            }
            stream.write(json.dumps(record) + "\n")


def _open(options: Any, folder: Path) -> None:
    from megatron_in2.data.packed.dataset import PackedDataset

    for rows in (1_000, 100_000, 1_000_000):
        path = folder / f"{rows}.jsonl"
        with open(path, "w", encoding="utf-8") as stream:
            for index in range(rows):
                parts = '[{"text": "Q", "learn": false}, {"text": "A", "learn": true}]'
                stream.write(f'{{"id": "{index}", "parts": {parts}}}\n')
        prefix = folder / f"rows{rows}"
        preprocess(PreprocessConfig([path], prefix, MISTRAL_V1, 16, no_packing=True))
        started = time.perf_counter()
        data = PackedDataset(prefix)
        opened = time.perf_counter()
        for place in np.random.default_rng(0).integers(0, rows, 1000):
            data[int(place)]
        read = (time.perf_counter() - opened) / 1000
        opening = 1e3 * (opened - started)
        print(f"{rows:>9,} rows: opened in {opening:.1f} ms, a row in {1e6 * read:.0f} us")


def _short_length(chance: np.random.Generator) -> int:
    return int(chance.integers(300, 900))


def _memory(options: Any, folder: Path) -> None:
    tokenizer = load_tokenizer(MISTRAL_V1)
    store, _ = _store(options.corpus, tokenizer, folder / "store")
    path = folder / "recipes.jsonl"
    _write_recipes(
        path, store, tokenizer, options.samples, lambda chance: int(chance.integers(300, 900))
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    config = PreprocessConfig([path], folder / "ours", MISTRAL_V1, ROW, workers=options.workers)
    manifest = preprocess(config)["train"]
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(
        f"{manifest.samples:,} samples, {manifest.tokens:,} tokens: at most {after / 1e3:,.0f} MB "
        f"resident ({before / 1e3:,.0f} MB before), largest worker {worker / 1e3:,.0f} MB"
    )


_BENCHMARKS = {"text": _text, "recipes": _recipes, "open": _open, "memory": _memory}


if __name__ == "__main__":
    run_command(main)
