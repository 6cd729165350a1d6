"""Encoded samples on disk between reading the input and writing rows.

Packing chooses among all samples, so every sample is encoded before the first row is written. Two
growing files hold them: ``_pool.bin``, a blob a sample, and ``_pool_records.bin``, a POOL_RECORD a
sample, which alone is held in memory while rows are planned.

A blob (little-endian int32 unless stated):

    trained spans S, runs R
    S times (start, end) of a span in the sample's ids
    R times (store, count) and then, where store is -1, ``count`` bytes of ids;
            else ``count`` numbers (uint32) of segments of the run's store of that index

A recipe of 190 segments takes some 900 bytes, a text 2 bytes a token.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.manifest import part_path
from megatron_in2.data.packing.encoding.encode import CompactSample, StoreRun
from megatron_in2.errors import InputError

BUFFER_BYTES = 1 << 20
BLOBS, RECORDS = "_pool.bin", "_pool_records.bin"

# 8 + 8 + 4 + 4 + 4 + 4 + 4 + 1, no alignment padding: 37 bytes a sample.
POOL_RECORD = np.dtype(
    [
        ("id_hash", np.uint64),
        ("offset", np.int64),  # of its blob; for a merge, of its ids in its dataset, in tokens
        ("size", np.int32),  # bytes of its blob; for a merge, the number of its dataset
        ("length", np.int32),  # tokens; 0 for a sample that was dropped
        ("learnt_spans", np.int32),
        ("learnt_tokens", np.int32),
        ("evidence_position", np.float32),  # NaN if unknown
        ("kind", np.uint8),  # index into the names of kinds
    ]
)
_PAIR = struct.Struct("<ii")
_TEXT = -1


@dataclass(frozen=True, slots=True)
class PooledSample:
    """What a row is written from: ids, as bytes or by reference, and trained [start, end) spans."""

    length: int
    runs: tuple[bytes | StoreRun, ...]
    trained: tuple[tuple[int, int], ...]


class SampleSource(Protocol):
    """Samples that rows are planned over by their records, and written from by index."""

    records: npt.NDArray[np.void]  # POOL_RECORD, kinds ascending by name

    def read(self, index: int) -> PooledSample:
        """Return the sample of ``records[index]``."""


class GrowingPool:
    """Appends samples to the pool of a prefix.

    Args:
        prefix: where the files lie.
        samples: how many it holds already; ``blob_bytes`` go with them. What lies behind is cut.
        blob_bytes: size of their blobs.

    Raises:
        InputError: a file is shorter than it was.
    """

    def __init__(self, prefix: Path, samples: int = 0, blob_bytes: int = 0) -> None:
        self._prefix = prefix
        self._samples = samples
        self._offset = blob_bytes
        self._blobs = _open_at(part_path(prefix, BLOBS), blob_bytes)
        self._records = _open_at(part_path(prefix, RECORDS), samples * POOL_RECORD.itemsize)

    def append(self, sample: CompactSample, kind: int, stores: dict[str, int]) -> None:
        """Append an encoded sample.

        Args:
            sample: the sample.
            kind: code of its kind.
            stores: number of each segment store; new ones are added.
        """
        blob = _blob(sample, stores)
        trained = sum(end - start for start, end in sample.trained)
        position = np.nan if sample.evidence_position is None else sample.evidence_position
        spans = len(sample.trained)
        self._append(blob, (sample.id_hash, sample.length, spans, trained, position, kind))

    def append_dropped(self, id_hash: int) -> None:
        """Remember the id of a sample that is not packed."""
        self._append(b"", (id_hash, 0, 0, 0, np.nan, 0))

    def _append(self, blob: bytes, values: tuple[Any, ...]) -> None:
        record = np.array((values[0], self._offset, len(blob), *values[1:]), POOL_RECORD)
        self._blobs.write(blob)
        self._records.write(record.tobytes())
        self._offset += len(blob)
        self._samples += 1

    def sync(self) -> dict[str, int]:
        """Force all to disk; return the arguments that continue from here."""
        for stream in (self._blobs, self._records):
            stream.flush()
            os.fsync(stream.fileno())
        return {"samples": self._samples, "blob_bytes": self._offset}

    def id_hashes(self) -> list[int]:
        """Return the id hashes of all samples, dropped ones too."""
        self._records.flush()
        hashes: list[int] = _read_records(self._prefix, self._samples)["id_hash"].tolist()
        return hashes

    def close(self) -> None:
        """Close the files; what was not synced may be lost."""
        self._blobs.close()
        self._records.close()


class SamplePool:
    """A complete pool, opened for reading.

    Args:
        prefix: where its files lie.
        samples: how many it holds.
        stores: paths of the segment stores, by their number.
        kind_codes: the code that each kind's code in the pool turns into, uint8.
    """

    def __init__(
        self, prefix: Path, samples: int, stores: list[str], kind_codes: npt.NDArray[np.uint8]
    ) -> None:
        records = _read_records(prefix, samples)
        self.records = records[records["length"] > 0]
        self.records["kind"] = kind_codes[self.records["kind"]]
        self._stores = stores
        self._descriptor = os.open(part_path(prefix, BLOBS), os.O_RDONLY)

    def read(self, index: int) -> PooledSample:
        """Return one sample."""
        record = self.records[index]
        blob = os.pread(self._descriptor, int(record["size"]), int(record["offset"]))
        return _sample(blob, int(record["length"]), self._stores)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _blob(sample: CompactSample, stores: dict[str, int]) -> bytes:
    spans = np.array(sample.trained, np.int32).tobytes()
    parts = [_PAIR.pack(len(sample.trained), len(sample.runs)), spans]
    for run in sample.runs:
        if isinstance(run, bytes):
            parts += [_PAIR.pack(_TEXT, len(run)), run]
        else:
            number = stores.setdefault(run.store, len(stores))
            parts += [_PAIR.pack(number, len(run.segments)), run.segments.astype("<u4").tobytes()]
    return b"".join(parts)


def _sample(blob: bytes, length: int, stores: list[str]) -> PooledSample:
    spans, runs = _PAIR.unpack_from(blob)
    place = _PAIR.size * (1 + spans)
    trained = tuple(_PAIR.iter_unpack(blob[_PAIR.size : place]))
    found: list[bytes | StoreRun] = []
    for _ in range(runs):
        number, count = _PAIR.unpack_from(blob, place)
        place += _PAIR.size
        if number == _TEXT:
            found.append(blob[place : place + count])
            place += count
        else:
            segments = np.frombuffer(blob, "<u4", count, place).astype(np.int64)
            found.append(StoreRun(stores[number], segments))
            place += 4 * count
    return PooledSample(length, tuple(found), trained)


def _read_records(prefix: Path, samples: int) -> npt.NDArray[np.void]:
    return np.fromfile(part_path(prefix, RECORDS), POOL_RECORD, samples)


def _open_at(path: Path, size: int) -> Any:
    stream = open(path, "r+b" if path.exists() else "w+b", BUFFER_BYTES)  # noqa: SIM115
    if os.fstat(stream.fileno()).st_size < size:
        stream.close()
        raise InputError(f"{path} is damaged: remove {path.parent} and run again")
    stream.truncate(size)
    stream.seek(size)
    return stream
