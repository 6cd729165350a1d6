"""One reader for every source; bad texts are named."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from megatron_in2.errors import InputError
from megatron_in2.synthesis.config import CorpusConfig
from megatron_in2.synthesis.corpus.documents import read_corpus

TEXTS = ["First text.\nTwo lines.", "Second text.", "First text.\nTwo lines.", "   "]


def _write(path: Path) -> Path:
    lines = "".join(json.dumps({"body": text}) + "\n" for text in TEXTS).encode()
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS}), path)
    else:
        path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)
    return path


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.parquet"])
def test_all_files_give_the_same_documents(tmp_path: Path, name: str) -> None:
    config = CorpusConfig(paths=[str(_write(tmp_path / name))], text_field="body")
    documents = list(read_corpus(config))
    assert [document.text for document in documents] == TEXTS[:2]
    assert len({document.id for document in documents}) == 2


def test_hub_data_sets_are_read_through_datasets(tmp_path: Path) -> None:
    _write(tmp_path / "train.jsonl")
    config = CorpusConfig(source="hub", dataset=str(tmp_path), subset=None, text_field="body")
    local = CorpusConfig(paths=[str(tmp_path / "train.jsonl")], text_field="body")
    assert list(read_corpus(config)) == list(read_corpus(local))


def test_text_files_are_documents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello\r\nthere")
    config = CorpusConfig(paths=[str(tmp_path / "a.txt")])
    assert [document.text for document in read_corpus(config)] == ["Hello\nthere"]


def test_python_carries_real_prose() -> None:
    documents = list(read_corpus(CorpusConfig(source="python", max_documents=300)))
    assert len(documents) == 300
    assert any("with statement" in document.text for document in documents)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("x.jsonl", b'{"other": "text"}\n', ":1: no field 'text'"),
        ("x.jsonl", b'{"text": 5}\n', ":1: field 'text' holds int"),
        ("x.jsonl", b'{"text": "\\ud800"}\n', ":1: text is not Unicode"),
        ("x.txt", b"\xff\xfe", "not UTF-8"),
        ("x.parquet", b"no parquet", "not readable as parquet"),
    ],
)
def test_bad_corpora_are_named(tmp_path: Path, name: str, content: bytes, complaint: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=complaint):
        list(read_corpus(CorpusConfig(paths=[str(tmp_path / name)])))


def test_missing_files_are_named(tmp_path: Path) -> None:
    for name in ("absent.jsonl", "absent.parquet", "absent.txt"):
        with pytest.raises(InputError, match=name):
            list(read_corpus(CorpusConfig(paths=[str(tmp_path / name)])))


def test_hub_data_sets_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "good"}\n{"text": broken\n')
    config = CorpusConfig(source="hub", dataset=str(tmp_path), subset=None)
    with pytest.raises(InputError, match=r"corpus\.dataset=.*cannot be read"):
        list(read_corpus(config))
