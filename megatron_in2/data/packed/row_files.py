"""The files of a packed dataset while they grow: appended to, cut back on resume, finished.

The format is Megatron-Core's (``megatron.core.datasets.indexed_dataset``, index version 1),
written here without it: a run then needs neither torch's start-up nor its memory, can be
continued after a kill, and holds no Python list of all sequences.
"""

import io
import os
import struct
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.manifest import ROW_RECORD, SAMPLE_RECORD, part_path
from megatron_in2.errors import InputError

INDEX_HEADER = b"MMIDIDX\x00\x00"
DTYPE_CODES = {np.dtype(np.uint8): 1, np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
BUFFER_BYTES = 1 << 20
_LENGTHS = "_lengths.int32"  # the sequences' lengths while the files grow
_RECORDS = {"_samples.npy": SAMPLE_RECORD, "_rows.npy": ROW_RECORD}
_GROWING = (".bin", "_loss_mask.bin", _LENGTHS, *_RECORDS)


class RowFiles:
    """Appends rows to the files at a prefix.

    Args:
        prefix: where they lie while they grow.
        dtype: of the token ids.
        sizes: what :meth:`sync` returned last, to continue from there; None starts anew.

    Raises:
        InputError: a file is shorter than its size.
    """

    def __init__(
        self, prefix: Path, dtype: npt.DTypeLike, sizes: dict[str, int] | None = None
    ) -> None:
        self.prefix = prefix
        self._dtype = np.dtype(dtype)
        self._streams: dict[str, IO[bytes]] = {}
        for part in _GROWING:
            self._streams[part] = self._open(part, None if sizes is None else sizes[part])

    def _open(self, part: str, size: int | None) -> IO[bytes]:
        path = part_path(self.prefix, part)
        if size is None:
            stream = open(path, "w+b", BUFFER_BYTES)  # noqa: SIM115 (closed by close)
            if part in _RECORDS:
                _write_npy_header(stream, _RECORDS[part], 0)
            return stream
        if not path.is_file() or path.stat().st_size < size:
            raise InputError(f"{path} is damaged: remove {path.parent} and run again")
        os.truncate(path, size)
        stream = open(path, "r+b", BUFFER_BYTES)  # noqa: SIM115
        stream.seek(size)
        return stream

    def append(
        self,
        tokens: bytes,
        mask: bytes,
        lengths: list[int] | npt.NDArray[np.int32],
        samples: npt.NDArray[np.void],
        row: npt.NDArray[np.void],
    ) -> None:
        """Append rows.

        Args:
            tokens: their ids.
            mask: their loss mask, a byte a token.
            lengths: padded lengths of their sequences.
            samples: SAMPLE_RECORD, one a sequence.
            row: ROW_RECORD, one a row.
        """
        arrays = (np.array(lengths, np.int32), samples, row)
        values = (tokens, mask, *(array.tobytes() for array in arrays))
        for part, value in zip(_GROWING, values, strict=True):
            self._streams[part].write(value)

    def stream(self, part: str) -> IO[bytes]:
        """Return the open stream of one file, to copy whole files behind what stands."""
        return self._streams[part]

    def sync(self) -> dict[str, int]:
        """Force everything to disk and return the files' sizes."""
        for stream in self._streams.values():
            stream.flush()
            os.fsync(stream.fileno())
        return {part: stream.tell() for part, stream in self._streams.items()}

    def id_hashes(self) -> list[int]:
        """Return the id hashes of the samples that stand."""
        stream = self._streams["_samples.npy"]
        stream.flush()
        start, record = _npy_header_bytes(SAMPLE_RECORD), SAMPLE_RECORD
        records = np.fromfile(part_path(self.prefix, "_samples.npy"), record, offset=start)
        hashes: list[int] = records["id_hash"][records["length"] > 0].tolist()
        return hashes

    def finish(self) -> None:
        """Write both indices, complete the records' headers, and close."""
        self.sync()
        for part, record in _RECORDS.items():
            stream = self._streams[part]
            count = (stream.tell() - _npy_header_bytes(record)) // record.itemsize
            stream.seek(0)
            _write_npy_header(stream, record, count)
        self.close()
        lengths = np.fromfile(part_path(self.prefix, _LENGTHS), np.int32)
        part_path(self.prefix, _LENGTHS).unlink()
        rows = np.load(part_path(self.prefix, "_samples.npy"), mmap_mode="r")["row"]
        documents = np.concatenate([[0], np.cumsum(np.bincount(rows))]).astype(np.int64)
        for part, dtype in (("", self._dtype), ("_loss_mask", np.dtype(np.uint8))):
            with open(part_path(self.prefix, f"{part}.idx"), "wb") as stream:
                stream.write(index_bytes(dtype, lengths, documents))
                stream.flush()
                os.fsync(stream.fileno())

    def close(self) -> None:
        """Close the files; what was not synced may be lost."""
        for stream in self._streams.values():
            stream.close()


def index_bytes(
    dtype: np.dtype[Any], lengths: npt.NDArray[np.int32], documents: npt.NDArray[np.int64]
) -> bytes:
    """Return the content of an .idx file.

    Args:
        dtype: of the tokens in the .bin file.
        lengths: of every sequence, in tokens.
        documents: the first sequence of every document, and the number of sequences at the end.
    """
    pointers = np.zeros(len(lengths), np.int64)
    np.cumsum(lengths[:-1], out=pointers[1:], dtype=np.int64)
    header = INDEX_HEADER + struct.pack("<QB", 1, DTYPE_CODES[dtype])
    counts = struct.pack("<QQ", len(lengths), len(documents))
    arrays = (lengths, pointers * dtype.itemsize, documents)
    return b"".join((header, counts, *(values.tobytes() for values in arrays)))


def sequence_lengths(path: Path) -> npt.NDArray[np.int32]:
    """Return the sequence lengths that an .idx file states."""
    with open(path, "rb") as stream:
        stream.seek(len(INDEX_HEADER) + struct.calcsize("<QB"))
        (count,) = struct.unpack("<Q", stream.read(8))
        stream.seek(8, os.SEEK_CUR)
        return np.fromfile(stream, np.int32, count)


def _write_npy_header(stream: IO[bytes], record: np.dtype[Any], count: int) -> None:
    """Write an .npy header; numpy pads it so that a larger count fits in its place."""
    header = {"descr": record.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(stream, header)  # type: ignore[no-untyped-call]


def _npy_header_bytes(record: np.dtype[Any]) -> int:
    stream = io.BytesIO()
    _write_npy_header(stream, record, 0)
    return len(stream.getvalue())
