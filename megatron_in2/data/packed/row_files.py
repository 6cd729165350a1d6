"""The files of a packed dataset while they grow: appended to, cut back on resume, finished.

The format is Megatron-Core's (``megatron.core.datasets.indexed_dataset``, index version 1),
written here without it: a run then needs neither torch's start-up nor its memory, and can be
continued after a kill. The two large files are hashed while they are written, so that nothing is
read back; pages of the mask that hold zeros alone are left out on disk (holes of a sparse file).
"""

import hashlib
import os
import struct
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packed.manifest import part_path
from megatron_in2.errors import InputError

INDEX_HEADER = b"MMIDIDX\x00\x00"
DTYPE_CODES = {np.dtype(np.uint8): 1, np.dtype(np.int32): 4, np.dtype(np.uint16): 8}
PAGE_BYTES = 4096
READ_BYTES = 1 << 22
TOKENS, MASK = ".bin", "_loss_mask.bin"


@dataclass(frozen=True)
class Sequences:
    """What the small files say of all rows.

    ``samples`` is SAMPLE_RECORD, one a sequence; ``lengths`` int32, the padded length of each
    sequence in tokens; ``rows`` ROW_RECORD, one a row.
    """

    samples: npt.NDArray[np.void]
    lengths: npt.NDArray[np.int32]
    rows: npt.NDArray[np.void]


class RowFiles:
    """Appends rows to the files at a prefix.

    Args:
        prefix: where they lie while they grow.
        dtype: of the token ids.
        tokens: what :meth:`sync` returned last, to continue from there; 0 starts anew.

    Raises:
        InputError: a file is shorter than it was.
    """

    def __init__(self, prefix: Path, dtype: npt.DTypeLike, tokens: int = 0) -> None:
        self.prefix = prefix
        self._dtype = np.dtype(dtype)
        self._tokens = tokens
        self._pool = ThreadPoolExecutor(2)  # hashing runs outside the interpreter's lock
        self._files = {
            part: _HashedFile(part_path(prefix, part), tokens * size, self._pool)
            for part, size in ((TOKENS, self._dtype.itemsize), (MASK, 1))
        }

    def append(self, tokens: bytes, mask: bytes) -> None:
        """Append the ids of whole rows, and their loss mask, a byte a token."""
        self._files[TOKENS].write(tokens)
        self._files[MASK].write_sparse(mask)
        self._tokens += len(mask)

    def sync(self) -> int:
        """Force everything to disk and return how many tokens are there."""
        for file in self._files.values():
            file.sync()
        return self._tokens

    def finish(self, sequences: Sequences) -> dict[str, str]:
        """Write the small files, and close all.

        Returns:
            SHA-256 of the two large files, by part.
        """
        self.sync()
        hashes = {part: file.sha256() for part, file in self._files.items()}
        self.close()
        counts = np.bincount(sequences.samples["row"], minlength=len(sequences.rows))
        documents = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        for part, dtype in (("", self._dtype), ("_loss_mask", np.dtype(np.uint8))):
            _write(
                part_path(self.prefix, f"{part}.idx"),
                index_bytes(dtype, sequences.lengths, documents),
            )
        for part, records in (("_samples", sequences.samples), ("_rows", sequences.rows)):
            with open(part_path(self.prefix, f"{part}.npy"), "wb") as stream:
                np.save(stream, records)
                stream.flush()
                os.fsync(stream.fileno())
        return hashes

    def close(self) -> None:
        """Close the files; what was not synced may be lost."""
        self._pool.shutdown()
        for file in self._files.values():
            file.close()


class _HashedFile:
    """A file that is hashed as it grows; what existed before is read once."""

    def __init__(self, path: Path, size: int, pool: ThreadPoolExecutor) -> None:
        self._path = path
        self._size = size
        self._pool = pool
        self._hash = hashlib.sha256()
        self._hashing: Future[None] | None = None
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if os.fstat(self._descriptor).st_size < size:
            os.close(self._descriptor)
            raise InputError(f"{path} is damaged: remove {path.parent} and run again")
        os.truncate(self._descriptor, size)
        for start in range(0, size, READ_BYTES):
            count = min(READ_BYTES, size - start)
            self._hash.update(os.pread(self._descriptor, count, start))

    def write(self, block: bytes) -> None:
        self._start_hash(block)
        self._write_at(memoryview(block), self._size)
        self._size += len(block)

    def write_sparse(self, block: bytes) -> None:
        """Write a block except for its pages of zeros; :meth:`sync` gives the file its size."""
        self._start_hash(block)
        view, whole = memoryview(block), len(block) // PAGE_BYTES * PAGE_BYTES
        pages = np.frombuffer(block, np.uint8, whole).reshape(-1, PAGE_BYTES)
        for page in np.flatnonzero(pages.any(axis=1)).tolist():
            start = page * PAGE_BYTES
            self._write_at(view[start : start + PAGE_BYTES], self._size + start)
        self._write_at(view[whole:], self._size + whole)
        self._size += len(block)

    def _write_at(self, view: memoryview, offset: int) -> None:
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def _start_hash(self, block: bytes) -> None:
        self._wait()
        self._hashing = self._pool.submit(self._hash.update, block)

    def _wait(self) -> None:
        if self._hashing is not None:
            self._hashing.result()

    def sync(self) -> None:
        os.truncate(self._descriptor, self._size)
        os.fsync(self._descriptor)

    def sha256(self) -> str:
        self._wait()
        return self._hash.hexdigest()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


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


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
