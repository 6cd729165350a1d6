"""Size and hash of every file of a step: sealed when it is saved, compared before it is used.

The list is in ``complete.json``, with a hash of itself. XXH3 (128 bits) finds damage by chance:
flipped bits, torn, cut, exchanged and missing files. It is no protection against an attacker.
"""

import contextlib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import xxhash

from megatron_in2.errors import InputError
from megatron_in2.files import sync_directory, sync_file, write_json

COMPLETE = "complete.json"
HASH_THREADS = 4
SMALL_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 22
NOT_PROTECTED = "{step} was saved without hashes of its files: damage to it is not noticed"
_FILES, _SEAL = "files", "seal"


@dataclass(frozen=True)
class FileSum:
    """A file's size in bytes, and the hexadecimal XXH3-128 of its content."""

    bytes: int
    xxh3_128: str


class HashingStream:
    """A binary file that is written from its start to its end, hashed as it is written.

    It has what torch's writers need and no more: nothing can be written twice.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hash = xxhash.xxh3_128()
        self._bytes = 0

    def write(self, data: Any) -> int:
        self._hash.update(data)
        count = self._file.write(data)
        self._bytes += count
        return count

    def tell(self) -> int:
        return self._bytes

    def flush(self) -> None:
        self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()

    def close(self) -> None:
        self._file.close()

    @property
    def sum(self) -> FileSum:
        """Size and hash of what was written."""
        return FileSum(self._bytes, self._hash.hexdigest())


def sum_of_file(path: Path) -> FileSum:
    """Read a file and return its size and hash; bounded memory."""
    digest, size = xxhash.xxh3_128(), 0
    block = memoryview(bytearray(_BLOCK_BYTES))
    with open(path, "rb", buffering=0) as stream:
        while count := stream.readinto(block):
            digest.update(block[:count])
            size += count
    return FileSum(size, digest.hexdigest())


def seal_step(step: Path, values: Mapping[str, Any], written: Mapping[str, FileSum]) -> None:
    """Declare a step whole: force all of it to disk, then write the list of its files.

    Args:
        step: its folder; every file in it is listed.
        values: what else ``complete.json`` says.
        written: files that were hashed and forced to disk by who wrote them, by their name in the
            step; the others, which are few and small, are read here.
    """
    names = sorted(_names(step))
    others = [name for name in names if name not in written]
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        paths = [step / name for name in others]
        sums = dict(zip(others, threads.map(sum_of_file, paths), strict=True))
        list(threads.map(sync_file, paths))
    missing = sorted(set(written) - set(names))
    assert not missing, f"{step}: {missing} were written and are gone"
    for folder, _, _ in os.walk(step, topdown=False):
        sync_directory(Path(folder))
    sync_directory(step.parent)
    listed = {name: asdict(written.get(name) or sums[name]) for name in names}
    content = {**values, _FILES: listed}
    write_json(step / COMPLETE, {**content, _SEAL: _seal_of(content)})


def is_protected(step: Path) -> bool:
    """Say whether a step was saved with hashes; those of version 1 were not."""
    try:
        return _FILES in json.loads((step / COMPLETE).read_bytes())
    except (OSError, ValueError):
        return True  # its list is damaged: find_damage says so


def find_damage(step: Path, share: tuple[int, int] | None = (0, 1)) -> str | None:
    """Compare a step with what was sealed.

    Args:
        step: a complete step.
        share: (index, count): read and hash this of so many equal shares of the files, so that
            ranks can divide a large step among them. None is for a look: it reads files of up to
            1 MiB and compares the sizes of the others.

    Returns:
        The first file that is not as it was saved, and what is wrong with it; None where all of
        the share is sound, or where the step was saved without hashes.
    """
    try:
        content = json.loads((step / COMPLETE).read_bytes())
        if not {_FILES, _SEAL} & content.keys():
            return None
        if content.pop(_SEAL) != _seal_of(content):
            raise ValueError
        sums = {name: FileSum(**values) for name, values in content[_FILES].items()}
    except FileNotFoundError:
        return f"{COMPLETE} is missing"
    except (ValueError, TypeError, KeyError, AttributeError):
        return f"{COMPLETE} is not as it was written"
    for name, expected in sums.items():
        if problem := _wrong_size(step / name, expected):
            return f"{name} {problem}"
    if share is None:
        names = [name for name in sums if sums[name].bytes <= SMALL_BYTES]
    else:
        index, count = share
        names = sorted(sums, key=lambda name: (-sums[name].bytes, name))[index::count]
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        problems = threads.map(lambda name: _wrong_content(step / name, sums[name]), names)
        return next(
            (f"{name} {each}" for name, each in zip(names, problems, strict=True) if each), None
        )


@contextlib.contextmanager
def checked_meanwhile(step: Path) -> Iterator[None]:
    """Check a step while the block reads it; what the block made counts only if it ends well.

    Raises:
        InputError: the step is damaged.
    """
    with ThreadPoolExecutor(1) as thread:
        damage = thread.submit(find_damage, step)
        try:
            yield
        finally:
            if problem := damage.result():
                raise damaged(step, problem)


def damaged(step: Path, problem: str) -> InputError:
    """Return the error for a step that is not as it was saved."""
    return InputError(f"{step} is damaged ({problem}): name another step, or restore this one")


def _wrong_content(path: Path, expected: FileSum) -> str | None:
    try:
        found = sum_of_file(path)
    except OSError as error:
        if error.errno != errno.EIO:
            raise OSError(error.errno, error.strerror, str(path)) from error
        return "cannot be read from its disk"
    return None if found == expected else "does not have the content that was saved"


def _wrong_size(path: Path, expected: FileSum) -> str | None:
    try:
        size = path.stat().st_size
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    return None if size == expected.bytes else f"has {size:,} of {expected.bytes:,} bytes"


def _names(step: Path) -> Iterable[str]:
    for path in step.rglob("*"):
        if path.is_file() and path != step / COMPLETE:
            yield path.relative_to(step).as_posix()


def _seal_of(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest()
