"""Reads a corpus as documents: Python's own texts, local files, or a Hugging Face data set."""

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.records import Document
from megatron_in2.shards import Shard
from megatron_in2.synthesis.corpus.config import CorpusConfig
from megatron_in2.synthesis.corpus.python_texts import python_texts
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.sources import field_of, file_records, hub_records, is_text_file


def read_corpus(
    config: CorpusConfig,
    shard: Shard | None = None,
    rejects: Rejects | None = None,
    texts: Iterator[tuple[str, Any]] | None = None,
) -> Iterator[Document]:
    """Stream the corpus, or one shard of it, exact duplicates and blank texts left out.

    A document's id is a hash of its text: stable over shards, order and renamed files.

    Args:
        config: the corpus.
        shard: which part of it; None is all.
        rejects: takes duplicates.
        texts: (place, text) of the corpus, where it was read before.

    Raises:
        InputError: a missing file or field, a text that is not text, not Unicode or gigantic,
            or an unreadable line; the message names file and line or row.
    """
    seen: set[int] = set()
    found = 0
    for where, value in corpus_texts(config) if texts is None else texts:
        identity, text = identified(where, value, config)
        if not text or (shard is not None and not shard.holds(identity)):
            continue
        if int(identity, 16) in seen:
            if rejects is not None:
                rejects.drop(identity, "document: exact duplicate", where=where)
            continue
        seen.add(int(identity, 16))
        yield Document(id=identity, text=text)
        found += 1
        if found == config.max_documents:
            return


def identified(where: str, value: Any, config: CorpusConfig) -> tuple[str, str]:
    """Return a text's id and the text as it is used.

    Raises:
        InputError: it is no text, not Unicode or gigantic.
    """
    text = _checked(where, value, config).replace("\r\n", "\n").strip()
    try:
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16], text
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: text is not Unicode ({error.reason}); re-encode it") from error


def _checked(where: str, value: Any, config: CorpusConfig) -> str:
    if not isinstance(value, str):
        raise InputError(
            f"{where}: field {config.text_field!r} holds {type(value).__name__}, not text; "
            "set corpus.text_field"
        )
    if len(value) > config.max_document_characters:
        raise InputError(
            f"{where}: a text of {len(value):,} characters exceeds corpus.max_document_characters="
            f"{config.max_document_characters}: split it or raise the limit"
        )
    return value


def corpus_texts(config: CorpusConfig) -> Iterator[tuple[str, Any]]:
    """Yield (place, text) of all of a corpus, unchecked."""
    if config.source == "python":
        return python_texts()
    if config.source == "hub":
        records = hub_records("corpus", config.dataset, config.subset, config.split)
        return _fields(records, config.text_field)
    return itertools.chain.from_iterable(_file_texts(Path(path), config) for path in config.paths)


def _file_texts(path: Path, config: CorpusConfig) -> Iterator[tuple[str, Any]]:
    if not is_text_file(path):
        yield from _fields(file_records(path, [config.text_field]), config.text_field)
        return
    if not path.is_file():
        raise InputError(f"corpus file {path} does not exist or is no file")
    # Four bytes make a character at most: a larger file is too long without being read.
    if path.stat().st_size > 4 * config.max_document_characters:
        raise InputError(
            f"{path}: a text file is one document, and {path.stat().st_size:,} bytes exceed "
            f"corpus.max_document_characters={config.max_document_characters}: split it, or make "
            "it JSON lines"
        )
    try:
        yield str(path), path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 ({error.reason}); re-encode it") from error


def _fields(records: Iterator[tuple[str, dict[str, Any]]], field: str) -> Iterator[tuple[str, Any]]:
    for where, record in records:
        yield where, field_of(record, field, where, "corpus.text_field")
