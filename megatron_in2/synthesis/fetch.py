"""Data sets of the hub, read once for all shards of a run.

For the output ``X.jsonl`` there are two folders beside it, each divided among the shards:

    X.corpus/, X.instructions/
        part.00003-of-00016.jsonl.zst   {"where": place in the data set, "record": ...} of one shard
        fetched.json                    what they were made from, and how many records they hold

A folder takes its name when it is whole. Shards that need it meanwhile wait for it.
"""

import fcntl
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory, read_json, write_json
from megatron_in2.progress import progress_bar
from megatron_in2.shards import Shard, shard_of
from megatron_in2.synthesis.composition.config import InstructionsConfig
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.corpus.config import CorpusConfig
from megatron_in2.synthesis.corpus.documents import corpus_texts, identified
from megatron_in2.synthesis.instructions import instruction_identity, instruction_records
from megatron_in2.synthesis.sources import file_records

FORMAT_VERSION = 1

Divided = Iterator[tuple[int, str, Any]]  # index of the shard, place, record


@dataclass(frozen=True)
class FetchedFolder:
    """One data set of the hub, divided among shards.

    Args:
        path: the folder.
        shards: how many parts it has.
        source: the data set and what is taken of it; a folder of another one is not used.
        divided: reads the data set.
    """

    path: Path
    shards: int
    source: str
    divided: Callable[[], Divided]

    def records(self, shard: Shard) -> Iterator[tuple[str, Any]]:
        """Yield (place in the data set, record) of one shard; fetches the folder if it is absent.

        Raises:
            InputError: the data set cannot be read, or the folder is another one's or damaged.
        """
        self.fetch()
        for _, line in file_records(self._part(self.path, shard.index)):
            yield line["where"], line["record"]

    def fetch(self, overwrite: bool = False) -> int:
        """Make the folder if it is absent, or wait for who is making it; return its records.

        Raises:
            InputError: the data set cannot be read, or the folder is another one's.
        """
        if not overwrite and (known := self.known_records()) is not None:
            return known
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(self.path):
            if not overwrite and (known := self.known_records()) is not None:
                return known
            for remnant in self.path.parent.glob(f".{self.path.name}.partial-*"):
                shutil.rmtree(remnant)
            return self._write()

    def known_records(self) -> int | None:
        """Return how many records a complete folder holds; None where there is none.

        Raises:
            InputError: the folder holds another data set, or has another number of parts.
        """
        if not self.path.exists():
            return None
        if not self.is_there():
            raise InputError(
                f"{self.path} was fetched from another data set, with other settings of it, or for "
                f"another number of shards than {self.shards}: fetch again with --overwrite, or "
                "name another --output"
            )
        return int(read_json(self.path / "fetched.json")["records"])

    def is_there(self) -> bool:
        """Whether the folder exists and holds this data set in this number of parts."""
        if not self.path.exists():
            return False
        manifest = read_json(self.path / "fetched.json")
        return all(manifest.get(name) == value for name, value in self._origin().items())

    def _write(self) -> int:
        count = 0
        with atomic_directory(self.path, replace=True) as folder:
            with ExitStack() as stack:
                parts = [
                    stack.enter_context(
                        pyarrow.output_stream(self._part(folder, index), compression="zstd")
                    )
                    for index in range(self.shards)
                ]
                bar = progress_bar(self.divided(), desc=self.path.name, unit=" records")
                for index, where, record in bar:
                    count += 1
                    line = json.dumps({"where": where, "record": record})
                    parts[index].write(line.encode("ascii") + b"\n")
            write_json(folder / "fetched.json", {**self._origin(), "records": count})
        return count

    def _origin(self) -> dict[str, Any]:
        return {"version": FORMAT_VERSION, "shards": self.shards, "source": self.source}

    def _part(self, folder: Path, index: int) -> Path:
        return folder / f"part.{index:05d}-of-{self.shards:05d}.jsonl.zst"


class SharedSources:
    """The records that one shard of a run reads.

    Those of the hub come from folders that all shards share; a run of one shard reads them as
    they come, where nobody fetched them before.

    Args:
        config: of the run.
        output: of the run; shards have names of their own beside it.
        shard: which one.
    """

    def __init__(self, config: SynthesisConfig, output: Path, shard: Shard) -> None:
        self._config = config
        self._shard = shard
        self._folders = fetched_folders(config, output, shard.count)

    def texts(self) -> Iterator[tuple[str, Any]]:
        """Yield (place, text) of the corpus, those of other shards too where they are not apart."""
        folder = self._folder("corpus")
        return corpus_texts(self._config.corpus) if folder is None else folder.records(self._shard)

    def instructions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (place, record) of the instruction data, as :meth:`texts` does."""
        folder = self._folder("instructions")
        if folder is None:
            return instruction_records(self._config.instructions)
        return folder.records(self._shard)

    def _folder(self, name: str) -> FetchedFolder | None:
        folder = self._folders.get(name)
        if folder is None or self._shard.count > 1 or folder.is_there():
            return folder
        return None


def fetched_folders(config: SynthesisConfig, output: Path, shards: int) -> dict[str, FetchedFolder]:
    """Return the folders of what a run takes from the hub, by the section of the configuration."""
    corpus, instructions = config.corpus, config.instructions
    folders = {}
    if corpus.source == "hub":
        folders["corpus"] = FetchedFolder(
            output.with_name(f"{output.stem}.corpus"),
            shards,
            _source(corpus, corpus.dataset),
            lambda: _divided_texts(corpus, shards),
        )
    if instructions.source == "hub" and config.mixture.counts()["instruction"]:
        folders["instructions"] = FetchedFolder(
            output.with_name(f"{output.stem}.instructions"),
            shards,
            _source(instructions, instructions.dataset),
            lambda: _divided_instructions(instructions, shards),
        )
    return folders


def _divided_texts(config: CorpusConfig, shards: int) -> Divided:
    """Yield the texts of a corpus until each shard has ``max_documents`` different ones."""
    most, unfilled = config.max_documents, shards
    seen: list[set[str]] = [set() for _ in range(shards)]
    for where, value in corpus_texts(config):
        identity, text = identified(where, value, config)
        index = shard_of(identity, shards)
        if not text or (most and len(seen[index]) == most):
            continue
        yield index, where, value
        if most:
            before = len(seen[index])
            seen[index].add(identity)
            unfilled -= before < len(seen[index]) == most
            if not unfilled:
                return


def _divided_instructions(config: InstructionsConfig, shards: int) -> Divided:
    taken = (
        config.messages_field,
        config.system_field,
        config.question_field,
        config.response_field,
    )
    for where, record in instruction_records(config):
        identity = instruction_identity(where, record, config)
        kept = {field: record[field] for field in taken if field in record}
        yield shard_of(identity, shards), where, kept


def _source(config: CorpusConfig | InstructionsConfig, dataset: str) -> str:
    """Describe a data set; one in a local directory by its files' sizes and times too."""
    files = sorted(Path(dataset).rglob("*")) if Path(dataset).is_dir() else []
    states = [(str(each), each.stat()) for each in files if each.is_file()]
    return repr((config, [(name, state.st_size, state.st_mtime_ns) for name, state in states]))


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait until no other process makes a folder.

    Raises:
        InputError: the file system has no locks.
    """
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"another process fetches {path}: waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            raise InputError(
                f"{path} cannot be locked ({error}): fetch it once, before any shard starts, on a "
                "file system that has locks"
            ) from error
        yield
