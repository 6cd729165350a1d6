"""Reads a corpus as documents: Python's own texts, local files, or a Hugging Face data set."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import read_json_lines
from megatron_in2.records import Document
from megatron_in2.synthesis.config import CorpusConfig
from megatron_in2.synthesis.python_texts import python_texts

JSON_SUFFIXES = (".jsonl", ".json", ".gz", ".zst")


def read_corpus(config: CorpusConfig) -> Iterator[Document]:
    """Stream the corpus as documents, exact duplicates and blank texts left out.

    A document's id is a hash of its text: stable over shards, order and renamed files.

    Raises:
        InputError: a missing file or field, a text that is not text, or an unreadable line;
            the message names file and line or row.
    """
    seen: set[str] = set()
    texts = _texts(config)
    limit = config.max_documents or None
    for where, value in texts:
        if not isinstance(value, str):
            raise InputError(
                f"{where}: field {config.text_field!r} holds {type(value).__name__}, not text; "
                "set corpus.text_field"
            )
        text = value.replace("\r\n", "\n").strip()
        try:
            identity = hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
        except UnicodeEncodeError as error:
            raise InputError(f"{where}: text is not Unicode ({error.reason}); mend it") from error
        if not text or identity in seen:
            continue
        seen.add(identity)
        yield Document(id=identity, text=text)
        if len(seen) == limit:
            return


def _texts(config: CorpusConfig) -> Iterator[tuple[str, Any]]:
    if config.source == "python":
        return python_texts()
    if config.source == "hub":
        return _hub_texts(config)
    return itertools.chain.from_iterable(
        _file_texts(Path(path), config.text_field) for path in config.paths
    )


def _file_texts(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    if path.name.endswith(JSON_SUFFIXES):
        for where, record in read_json_lines(path):
            yield where, _field_of(record, field, where)
    elif path.suffix == ".parquet":
        yield from _parquet_texts(path, field)
    elif path.is_file():
        try:
            yield str(path), path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error.reason}); re-encode it") from error
    else:
        raise InputError(f"corpus file {path} does not exist or is no file")


def _parquet_texts(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    import pyarrow.lib
    import pyarrow.parquet

    if not path.is_file():
        raise InputError(f"corpus file {path} does not exist")
    try:
        table = pyarrow.parquet.ParquetFile(path)
        columns = table.schema_arrow.names
        if field not in columns:
            raise InputError(
                f"{path}: no column {field!r} (it has {', '.join(columns)}); set corpus.text_field"
            )
        row = 0
        for batch in table.iter_batches(columns=[field]):
            for value in batch.column(0).to_pylist():
                row += 1
                yield f"{path}:row {row}", value
    except pyarrow.lib.ArrowException as error:
        raise InputError(f"{path}: not readable as parquet: {error}") from error


def _hub_texts(config: CorpusConfig) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        rows = datasets.load_dataset(
            config.dataset, config.subset, split=config.split, streaming=True
        )
    except Exception as error:  # the hub client's errors share no base class
        raise InputError(
            f"corpus.dataset={config.dataset!r} subset={config.subset!r} split={config.split!r} "
            f"cannot be opened: {error}"
        ) from error
    for number, record in enumerate(rows):
        where = f"{config.dataset}/{config.split}:row {number}"
        yield where, _field_of(record, config.text_field, where)


def _field_of(record: dict[str, Any], field: str, where: str) -> Any:
    if field not in record:
        raise InputError(
            f"{where}: no field {field!r} (it has {', '.join(record)}); set corpus.text_field"
        )
    return record[field]
