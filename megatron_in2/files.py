"""Files that are either whole or absent, and errors that name the file and the line."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow
import yaml

from megatron_in2.errors import InputError

# What file systems say that have no such operation, or need none.
_NO_SYNC_OF_DIRECTORIES = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
MAX_LINE_BYTES = 256_000_000
ARCHIVE_ERRORS = (EOFError, OSError, zlib.error)  # what reading a broken archive may raise
_PIECE = 1 << 20  # of a line, read at a time


@dataclass(frozen=True, slots=True)
class LongLine:
    """A line that is too long to be held: its size in bytes, and how it begins."""

    size: int
    head: bytes


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary twin of ``path`` and give it the name only when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


@contextlib.contextmanager
def atomic_directory(path: Path, replace: bool = False) -> Iterator[Path]:
    """Yield an empty twin directory that takes the name ``path`` only when the block ends well.

    Raises:
        InputError: ``path`` exists and ``replace`` is false.
    """
    if path.exists() and not replace:
        raise InputError(f"{path} already exists: remove it or name another output")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        sync_tree(temporary)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_directory(path.parent)


def sync_file(path: Path) -> None:
    """Force a file's content to disk, whoever wrote it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Force a directory's entries to disk; before that a power cut may take new files away."""
    try:
        sync_file(path)
    except OSError as error:
        if error.errno not in _NO_SYNC_OF_DIRECTORIES:
            raise


def sync_tree(path: Path) -> None:
    """Force all files and directories below a directory, and its own entries, to disk."""
    for folder, _, names in os.walk(path, topdown=False):
        for name in names:
            sync_file(Path(folder, name))
        sync_directory(Path(folder))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    with atomic_file(path) as stream:
        json.dump(value, stream, indent=2, ensure_ascii=False)
        stream.write("\n")


def read_json(path: Path) -> Any:
    """Read one JSON file.

    Raises:
        InputError: the file is absent or is not JSON.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable as JSON: {error}") from error


def read_yaml(path: Path, what: str = "") -> Any:
    """Read one YAML file.

    Args:
        path: the file.
        what: precedes the path in messages, such as ``template``.

    Raises:
        InputError: the file is absent or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split())
        named = f"{what} {path}".lstrip()
        raise InputError(f"{named} is not readable as YAML: {problem}") from error


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("FILE:LINE", object)`` for each line of plain, .gz or .zst JSON lines.

    Blank lines and a byte-order mark are passed over.

    Raises:
        InputError: an absent file, a broken archive, bytes that are not UTF-8, or a line that
            is not one JSON object; the message names file and line.
    """
    number = 0
    try:
        with open_lines(path) as stream:
            while raw := next_line(stream):
                number += 1
                if isinstance(raw, LongLine):
                    raise InputError(f"{path}:{number}: {too_long(raw)}")
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                if line:
                    yield f"{path}:{number}", _json_object(line, f"{path}:{number}")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number}: not UTF-8 ({error.reason}); re-encode it") from error
    except ARCHIVE_ERRORS as error:
        refuse_broken_archive(path, number, error)
        raise


def next_line(stream: IO[bytes], limit: int = MAX_LINE_BYTES) -> bytes | LongLine:
    """Read one line with its newline; empty at the end.

    Args:
        stream: of a file.
        limit: bytes of a line; of a longer one no more than its size and its start are kept.
    """
    line = stream.readline(_PIECE)
    if len(line) < _PIECE or line.endswith(b"\n"):
        return line
    pieces, size = [line], len(line)
    while piece := stream.readline(_PIECE):
        size += len(piece)
        if size <= limit:
            pieces.append(piece)
        else:
            del pieces[1:]
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces) if size <= limit else LongLine(size, pieces[0][:200])


def too_long(line: LongLine, limit: int = MAX_LINE_BYTES) -> str:
    """Say what is wrong with a line that is too long."""
    return (
        f"a line of {line.size:,} bytes, more than the {limit:,} that are read; "
        "is a newline missing between records?"
    )


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes, read in bounded memory."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_text(text: str) -> str:
    """Return the hexadecimal SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def refuse_broken_archive(path: Path, lines: int, error: Exception) -> None:
    """Name an archive that is damaged or ends early; return on any other failure of reading.

    Raises:
        InputError: naming the file and the lines that were read.
    """
    damaged = isinstance(error, EOFError | gzip.BadGzipFile | zlib.error)
    # pyarrow's errors of decompression are OSErrors without a number.
    if damaged or (path.suffix == ".zst" and getattr(error, "errno", None) is None):
        raise InputError(f"{path}: broken archive after line {lines}: {error}") from error


def open_lines(path: Path) -> IO[bytes]:
    """Open a plain, .gz or .zst file of lines for reading as plain bytes."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; name the files in it")
    if not path.is_file():
        raise InputError(f"{path} does not exist")
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        return io.BufferedReader(pyarrow.input_stream(path, compression="zstd"))
    return open(path, "rb")


def _json_object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); fix or remove the line") from error
    if not isinstance(value, dict):
        raise InputError(f"{where}: expected a JSON object, found {type(value).__name__}")
    return value
