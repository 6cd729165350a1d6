"""Near-duplicates, shards, workers: which documents a run keeps, and in which order."""

import io
import itertools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megatron_in2.errors import InputError
from megatron_in2.records import Document
from megatron_in2.shards import Shard
from megatron_in2.synthesis.config import CorpusConfig
from megatron_in2.synthesis.corpus.documents import read_corpus
from megatron_in2.synthesis.corpus.near_duplicates import without_near_duplicates
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.workers import ordered_map


def test_near_duplicates_are_dropped_and_named(texts: list[str]) -> None:
    long = [text for text in texts if len(text.split()) > 200][:40]
    nearly = " ".join(["Changed", *long[3].split()[1:]])
    documents = [Document(str(i), text) for i, text in enumerate([*long, nearly])]
    stream = io.StringIO()
    rejects = Rejects(stream)
    kept = list(without_near_duplicates(documents, 0.8, rejects))
    assert str(len(long)) not in {document.id for document in kept}
    (last,) = [
        line for line in map(json.loads, stream.getvalue().splitlines()) if line["id"] == "40"
    ]
    assert last["of"] == "3"
    assert last["similarity"] > 0.8
    different = [
        Document(str(i), f"{' '.join(text.split()[i:])}") for i, text in enumerate(long[:9])
    ]
    assert list(without_near_duplicates(different, 0.8, rejects)) == different


def test_shards_share_the_corpus(small_corpus: Path) -> None:
    config = CorpusConfig(paths=[str(small_corpus)])
    whole = {document.id for document in read_corpus(config)}
    shards = [{d.id for d in read_corpus(config, Shard(i, 4))} for i in range(4)]
    assert set().union(*shards) == whole
    assert sum(map(len, shards)) == len(whole)
    assert min(map(len, shards)) > len(whole) / 8


@pytest.mark.parametrize("count", [0, 1, 7, 100, 1_750_000])
def test_parts_add_up(count: int) -> None:
    for shards in (1, 3, 16):
        assert sum(Shard(i, shards).part_of(count) for i in range(shards)) == count


@pytest.mark.parametrize(("index", "count"), [(-1, 2), (2, 2), (0, 0)])
def test_impossible_shards_are_refused(index: int, count: int) -> None:
    with pytest.raises(InputError, match="shard"):
        Shard(index, count)


def test_gigantic_documents_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "short"}\n{"text": "%s"}\n' % ("x" * 2000))
    (tmp_path / "b.txt").write_text("y" * 5000)
    for name, place in (("a.jsonl", "a.jsonl:2: a text of 2,000"), ("b.txt", "b.txt: a text file")):
        config = CorpusConfig(paths=[str(tmp_path / name)], max_document_characters=1000)
        with pytest.raises(InputError, match=place):
            list(read_corpus(config))


def test_exact_duplicates_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": "one"}\n')
    rejects = Rejects(io.StringIO())
    config = CorpusConfig(paths=[str(tmp_path / "a.jsonl")])
    assert len(list(read_corpus(config, rejects=rejects))) == 1
    assert rejects.counts == {"document: exact duplicate": 1}


def _squares() -> Callable[[list[int]], list[tuple[int, int]]]:
    return lambda batch: [(number * number, os.getpid()) for number in batch]


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_order_and_no_further_ahead_than_needed(workers: int) -> None:
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        for number in range(100_000):
            read = number
            yield number

    results = ordered_map(_squares, numbers(), workers, chunk=10)
    first = list(itertools.islice(results, 100))
    results.close()
    assert [square for square, _ in first] == [number * number for number in range(100)]
    assert len({process for _, process in first} - {os.getpid()}) <= workers
    assert read < 300
