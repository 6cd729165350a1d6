"""Cuts sample files into chunks of raw records, which workers then read and encode."""

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow
import pyarrow.parquet

from megatron_in2.data.packing.encoding.samples import SampleError
from megatron_in2.errors import InputError
from megatron_in2.files import (
    ARCHIVE_ERRORS,
    MAX_LINE_BYTES,
    LongLine,
    next_line,
    open_lines,
    refuse_broken_archive,
    too_long,
)
from megatron_in2.shards import Shard

CHUNK_RECORDS = 128
CHUNK_BYTES = 1_000_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some consecutive records of one file, not parsed yet.

    ``records`` are raw lines, or a batch of a parquet file's rows; ``first`` is the number of the
    first, from 1; ``consumed`` are the file's bytes read for them; lines of more than
    ``max_line_bytes`` are not held.
    """

    path: Path
    first: int
    records: "list[bytes | LongLine] | pyarrow.RecordBatch"
    consumed: int
    max_line_bytes: int

    def __len__(self) -> int:
        return len(self.records)

    def where(self, index: int) -> str:
        """Return ``FILE:LINE`` of a record of the chunk."""
        return f"{self.path}:{self.first + index}"

    def raw(self, index: int) -> str:
        """Return a record as text, as far as it is text."""
        if isinstance(self.records, list):
            line = self.records[index]
            raw = line.head if isinstance(line, LongLine) else line
            return raw.decode("utf-8", "replace").rstrip("\r\n")
        row = self.records.slice(index, 1).to_pylist()[0]
        return json.dumps(row, ensure_ascii=False, default=str)

    def parsed(self, index: int) -> dict[str, Any] | None:
        """Return a record as an object, or None for a blank line.

        Raises:
            SampleError: it is too long, not UTF-8, not JSON, or not an object.
        """
        if not isinstance(self.records, list):
            row: dict[str, Any] = self.records.slice(index, 1).to_pylist()[0]
            return row
        where, line = self.where(index), self.records[index]
        if isinstance(line, LongLine):
            raise SampleError(f"{where}: {too_long(line, self.max_line_bytes)}", "line too long")
        try:
            text = line.decode("utf-8-sig" if self.first + index == 1 else "utf-8")
            value = json.loads(text) if text.strip() else None
        except UnicodeDecodeError as error:
            message = f"{where}: not UTF-8 ({error.reason}); re-encode it"
            raise SampleError(message, "not UTF-8") from error
        except (ValueError, RecursionError) as error:
            message = f"{where}: not JSON ({error}); fix or remove the line"
            raise SampleError(message, "not JSON") from error
        if value is None and not text.strip():
            return None
        if not isinstance(value, dict):
            found = type(value).__name__
            raise SampleError(f"{where}: expected a JSON object, found {found}", "not an object")
        return value


def read_chunks(
    paths: list[Path], shard: Shard, skip: int = 0, max_line_bytes: int = MAX_LINE_BYTES
) -> Iterator[Chunk]:
    """Yield a shard's chunks of the files, in order.

    Args:
        paths: JSON lines (plain, .gz, .zst) or parquet files.
        shard: which chunks.
        skip: how many of this shard's chunks to pass over.
        max_line_bytes: longer lines are not held in memory.

    Raises:
        InputError: a file is absent, a directory, empty, or broken.
    """
    number = 0
    for path in paths:
        is_table = path.suffix == ".parquet"
        for chunk in _parquet_chunks(path) if is_table else _line_chunks(path, max_line_bytes):
            own, place = number % shard.count == shard.index, number // shard.count
            if own and place >= skip:
                yield chunk
            number += 1


def input_bytes(paths: list[Path], shard: Shard) -> int:
    """Return about how many bytes a shard of the files holds, as they lie on disk."""
    return sum(path.stat().st_size for path in paths if path.is_file()) // shard.count


def _line_chunks(path: Path, max_line_bytes: int) -> Iterator[Chunk]:
    number, position = 0, 0
    try:
        with open_lines(path) as stream:
            while lines := _next_lines(stream, max_line_bytes):
                now = _position(stream, position + sum(map(_size, lines)))
                yield Chunk(path, number + 1, lines, now - position, max_line_bytes)
                number, position = number + len(lines), now
    except ARCHIVE_ERRORS as error:
        refuse_broken_archive(path, number, error)
        raise
    if number == 0:
        raise InputError(f"{path} is empty: it holds no samples")


def _next_lines(stream: IO[bytes], max_line_bytes: int) -> list[bytes | LongLine]:
    lines: list[bytes | LongLine] = []
    size = 0
    while len(lines) < CHUNK_RECORDS and size < CHUNK_BYTES:
        if not (line := next_line(stream, max_line_bytes)):
            break
        lines.append(line)
        size += _size(line)
    return lines


def _size(line: bytes | LongLine) -> int:
    return line.size if isinstance(line, LongLine) else len(line)


def _position(stream: IO[bytes], unpacked: int) -> int:
    """Return how far into the file on disk a stream has read; of .zst it is not known."""
    if isinstance(stream, gzip.GzipFile):
        return int(stream.fileobj.tell())  # type: ignore[attr-defined]
    return unpacked if isinstance(stream, io.BufferedReader) else 0


def _parquet_chunks(path: Path) -> Iterator[Chunk]:
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            rows = table.metadata.num_rows
            share = path.stat().st_size / max(rows, 1)
            number = 0
            for batch in table.iter_batches(batch_size=CHUNK_RECORDS):
                yield Chunk(path, number + 1, batch, round(share * len(batch)), MAX_LINE_BYTES)
                number += len(batch)
    except pyarrow.ArrowInvalid as error:
        raise InputError(f"{path} is not readable as parquet: {error}") from error
    if number == 0:
        raise InputError(f"{path} is empty: it holds no samples")
