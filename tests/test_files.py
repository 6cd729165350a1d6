"""Files are whole or absent; bad lines are named."""

import gzip
from pathlib import Path

import pyarrow
import pytest

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory, atomic_file, read_json_lines


def _zstd(content: bytes) -> bytes:
    return pyarrow.compress(content, codec="zstd", asbytes=True)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as stream:
        stream.write("half")
        raise RuntimeError
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "b") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_failed_rewrite_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt") as stream:
        stream.write("new")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_json_lines_plain_and_packed(tmp_path: Path, suffix: str) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}\n'
    pack = {"": bytes, ".gz": gzip.compress, ".zst": _zstd}[suffix]
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(pack(content))
    assert list(read_json_lines(path)) == [(f"{path}:1", {"a": 1}), (f"{path}:3", {"a": 2})]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": 1}\n{"a": \n', ":2: not JSON"),
        (b'{"a": ' + b"[" * 100_000 + b"\n", ":1: not JSON"),
        (b"[1, 2]\n", ":1: expected a JSON object, found list"),
        (b'{"a": 1}\n\xff\xfe\n', ":2: not UTF-8"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        list(read_json_lines(path))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_cut_archive_is_refused(tmp_path: Path, suffix: str) -> None:
    pack = {".gz": gzip.compress, ".zst": _zstd}[suffix]
    path = tmp_path / f"x.jsonl{suffix}"
    path.write_bytes(pack(b'{"a": 1}\n' * 10_000)[:-20])
    with pytest.raises(InputError, match="broken archive"):
        list(read_json_lines(path))


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory"):
        list(read_json_lines(tmp_path))
