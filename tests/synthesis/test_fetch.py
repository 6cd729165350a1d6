"""Data sets of the hub are read once for all shards; a half one is never used."""

import fcntl
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from megatron_in2.commands import synthesize_in2
from megatron_in2.errors import InputError
from megatron_in2.shards import Shard
from megatron_in2.synthesis import instructions, sources
from megatron_in2.synthesis.config import (
    CompositionConfig,
    CorpusConfig,
    FilterConfig,
    InstructionsConfig,
    MixtureConfig,
    SegmentConfig,
    SynthesisConfig,
)
from megatron_in2.synthesis.corpus import documents
from megatron_in2.synthesis.corpus.documents import read_corpus
from megatron_in2.synthesis.fetch import Divided, FetchedFolder, SharedSources, fetched_folders
from megatron_in2.synthesis.pipeline import RunOptions, synthesize
from megatron_in2.synthesis.rejects import Rejects

SHARDS = 3


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sections of the configuration that the hub was read for, one for each time."""
    read: list[str] = []

    def counted(section: str, *more: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        read.append(section)
        return sources.hub_records(section, *more)

    monkeypatch.setattr(documents, "hub_records", counted)
    monkeypatch.setattr(instructions, "hub_records", counted)
    return read


def _repository(folder: Path, texts: list[Any]) -> Path:
    """Write a data set as repositories of the hub hold it: parquet files of a split."""
    folder.mkdir(parents=True, exist_ok=True)
    half = len(texts) // 2
    for number, part in enumerate((texts[:half], texts[half:])):
        table = pyarrow.table({"text": part, "url": ["https://x"] * len(part)})
        pyarrow.parquet.write_table(table, folder / f"train-{number:05d}-of-00002.parquet")
    return folder


def _config(dataset: Path, **corpus: Any) -> SynthesisConfig:
    hub = CorpusConfig(source="hub", dataset=str(dataset), subset=None, **corpus)
    return SynthesisConfig(corpus=hub)


TEXTS = [f"Text {number}.\r\r\nIt has two lines." for number in range(40)]
TEXTS += ["  ", *TEXTS[5:9], "\ud7ff and \u20ac", "The last one."]


@pytest.mark.parametrize("most", [0, 4])
def test_shards_read_what_they_would_read_alone(
    tmp_path: Path, reads: list[str], most: int
) -> None:
    config = _config(_repository(tmp_path / "texts", TEXTS), max_documents=most)
    for index in range(SHARDS):
        shard = Shard(index, SHARDS)
        shared = SharedSources(config, tmp_path / "x.jsonl", shard)
        lists = Rejects(io.StringIO()), Rejects(io.StringIO())
        alone = list(read_corpus(config.corpus, shard, lists[0]))
        assert list(read_corpus(config.corpus, shard, lists[1], shared.texts())) == alone
        assert len(alone) == most or (not most and len(alone) > 4)
        assert lists[0]._stream.getvalue() == lists[1]._stream.getvalue()
    assert len(reads) == SHARDS + 1  # each shard alone, and once for all


def test_a_run_in_shards_reads_the_hub_once(
    tmp_path: Path, reads: list[str], small_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command or by the first shard; the samples are those of a run over plain files."""
    texts = [json.loads(line)["text"] for line in small_corpus.read_text().splitlines()][:80]
    chats = tmp_path / "chats" / "train.jsonl"
    chats.parent.mkdir()
    chats.write_text(
        "".join(
            json.dumps({"system_prompt": "", "question": f"{i}?", "response": f"{i}.", "x": 1})
            + "\n"
            for i in range(50)
        )
    )
    files = SynthesisConfig(
        corpus=CorpusConfig(paths=[str(tmp_path / "texts.jsonl")]),
        segments=SegmentConfig(min_tokens=48),
        composition=CompositionConfig(min_tokens=256, max_tokens=1000),
        mixture=MixtureConfig(fine_grained=40, integration=0, short=4, instruction=10),
        instructions=InstructionsConfig(source="files", paths=[str(chats)]),
        filters=FilterConfig(max_copied_words=0),
    )
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    hub = replace(
        files,
        corpus=_config(_repository(tmp_path / "texts", texts)).corpus,
        instructions=InstructionsConfig(dataset=str(chats.parent)),
    )
    for index in range(2):
        options = RunOptions(shard=Shard(index, 2))
        synthesize(files, tmp_path / "files" / "x.jsonl", options)
        synthesize(hub, tmp_path / "hub" / "x.jsonl", options)
        name = f"x.{index:05d}-of-00002.jsonl"
        assert (tmp_path / "hub" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()
    assert sorted(reads) == ["corpus", "instructions"]
    (tmp_path / "run.yaml").write_text(
        f"corpus: {{source: hub, dataset: {hub.corpus.dataset}, subset: null}}\n"
        f"mixture: {{instruction: 10}}\ninstructions: {{dataset: {hub.instructions.dataset}}}\n"
    )
    output = str(tmp_path / "hub" / "x.jsonl")
    arguments = ["fetch", "--config", str(tmp_path / "run.yaml")]
    arguments += ["--output", output, "--num-shards", "2"]
    assert not synthesize_in2.main(arguments)
    assert len(reads) == 2  # it is there
    assert "x.corpus holds 80 records for 2 shards" in capsys.readouterr().out
    assert not synthesize_in2.main([*arguments, "--overwrite"])
    assert sorted(reads) == ["corpus", "corpus", "instructions", "instructions"]
    folders = fetched_folders(hub, tmp_path / "hub" / "x.jsonl", 2)
    line = next(iter(folders["instructions"].records(Shard(1, 2))))[1]
    assert set(line) == {"system_prompt", "question", "response"}


def test_a_half_fetch_is_not_used(tmp_path: Path) -> None:
    dataset = _repository(tmp_path / "texts", TEXTS)
    (folder,) = fetched_folders(_config(dataset), tmp_path / "x.jsonl", SHARDS).values()

    def broken() -> Divided:
        for number, record in enumerate(folder.divided()):
            if number == 10:
                raise InputError("the connection is lost")
            yield record

    with pytest.raises(InputError, match="connection"):
        replace(folder, divided=broken).fetch()
    assert folder.known_records() is None
    remnant = tmp_path / ".x.corpus.partial-1"  # of a killed process
    remnant.mkdir()
    assert folder.fetch() == len(TEXTS) - 1  # the blank one is left out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".x.corpus.lock",
        "texts",
        "x.corpus",
    ]


def test_who_comes_second_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, waiting = threading.Event(), threading.Event()
    flock = fcntl.flock

    def watched(file: Any, operation: int) -> None:
        if operation == fcntl.LOCK_EX:
            waiting.set()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", watched)

    def slow() -> Divided:
        begun.set()
        assert waiting.wait(30)
        yield 0, "row 0", "text"

    def never() -> Divided:
        raise AssertionError("read twice")

    first = FetchedFolder(tmp_path / "x.corpus", 1, "one", slow)
    thread = threading.Thread(target=first.fetch)
    thread.start()
    assert begun.wait(30)
    assert list(replace(first, divided=never).records(Shard())) == [("row 0", "text")]
    thread.join()


def test_another_fetch_is_refused(tmp_path: Path) -> None:
    config, output = _config(_repository(tmp_path / "texts", TEXTS)), tmp_path / "x.jsonl"
    SharedSources(config, output, Shard(0, 2)).texts()
    next(SharedSources(config, output, Shard(0, 2)).texts())
    with pytest.raises(InputError, match=r"x\.corpus was fetched .* --overwrite"):
        next(SharedSources(config, output, Shard(0, 3)).texts())
    _repository(tmp_path / "texts", TEXTS[1:])
    with pytest.raises(InputError, match=r"x\.corpus was fetched .* --overwrite"):
        next(SharedSources(config, output, Shard(0, 2)).texts())


def test_a_run_of_one_shard_reads_the_hub_as_it_comes(tmp_path: Path, reads: list[str]) -> None:
    config, output = _config(_repository(tmp_path / "texts", TEXTS)), tmp_path / "x.jsonl"
    alone = list(read_corpus(config.corpus, texts=SharedSources(config, output, Shard()).texts()))
    assert not (tmp_path / "x.corpus").exists()
    (folder,) = fetched_folders(config, output, SHARDS).values()
    folder.fetch()  # for shards: of no use to it
    again = list(read_corpus(config.corpus, texts=SharedSources(config, output, Shard()).texts()))
    assert again == alone
    (folder,) = fetched_folders(config, output, 1).values()
    folder.fetch(overwrite=True)
    fetched = list(read_corpus(config.corpus, texts=SharedSources(config, output, Shard()).texts()))
    assert fetched == alone
    assert len(reads) == 4  # alone, for shards, alone, for one
