"""Finds documents that share a run of words with an evaluation text (arXiv 2404.16811: 10 words).

Words are lower-cased runs of letters and digits; runs are compared as 64-bit hashes, kept as one
sorted array of 8 bytes a run. A false alarm over 10^7 evaluation runs and 10^10 corpus words has
an expected count below 0.01.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megatron_in2.errors import InputError
from megatron_in2.records import Document
from megatron_in2.synthesis.config import DecontaminationConfig
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.sources import file_records, is_text_file

_WORD = re.compile(r"[^\W_]+")
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplying loses no bit


class EvaluationTexts:
    """The word runs of texts that no document may repeat.

    Args:
        texts: the evaluation texts.
        ngram: length of a run in words.
    """

    def __init__(self, texts: Iterable[str], ngram: int) -> None:
        self._ngram = ngram
        hashes = [_run_hashes(_words(text), ngram) for text in texts]
        self._hashes = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._hashes)

    def overlap(self, text: str) -> str | None:
        """Return the first run of words that ``text`` shares, or None."""
        words = _words(text)
        hashes = _run_hashes(words, self._ngram)
        if not len(hashes) or not len(self._hashes):
            return None
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[places] == hashes)
        if not len(hits):
            return None
        return " ".join(words[hits[0] : hits[0] + self._ngram])


def read_evaluation_texts(config: DecontaminationConfig) -> EvaluationTexts | None:
    """Read the evaluation files, or return None where none are named.

    Raises:
        InputError: a file is absent or unreadable, or all texts are shorter than a run.
    """
    if not config.paths:
        return None
    texts = EvaluationTexts(
        (text for path in config.paths for text in _file_texts(Path(path))), config.ngram
    )
    if not len(texts):
        raise InputError(
            f"decontamination.paths: no text of {config.ngram} words or more in "
            f"{', '.join(config.paths)}: name other files or lower decontamination.ngram"
        )
    return texts


def without_overlap(
    documents: Iterable[Document], evaluation: EvaluationTexts, rejects: Rejects
) -> Iterator[Document]:
    """Yield the documents that share no run of words; list the others with the run."""
    for document in documents:
        shared = evaluation.overlap(document.text)
        if shared is None:
            yield document
        else:
            rejects.drop(document.id, "document: overlaps an evaluation text", words=shared)


def _file_texts(path: Path) -> Iterator[str]:
    if is_text_file(path):
        if not path.is_file():
            raise InputError(f"decontamination.paths: {path} does not exist or is no file")
        try:
            yield path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: not UTF-8 ({error.reason}); re-encode it") from error
    else:
        for _, record in file_records(path):
            yield from _strings(record)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for child in value.values():
            yield from _strings(child)
    elif isinstance(value, list):
        for child in value:
            yield from _strings(child)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _run_hashes(words: list[str], ngram: int) -> npt.NDArray[np.uint64]:
    """Return a hash, modulo 2^64, of every run of ``ngram`` words, [words - ngram + 1]."""
    count = len(words) - ngram + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = np.array([xxhash.xxh64_intdigest(word.encode()) for word in words], np.uint64)
    runs = np.zeros(count, np.uint64)
    for offset in range(ngram):
        runs = runs * _BASE + hashes[offset : offset + count]
    return runs
