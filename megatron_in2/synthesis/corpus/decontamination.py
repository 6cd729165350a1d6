"""Finds documents that share a run of words with an evaluation text (arXiv 2404.16811: 10 words).

Words are lower-cased runs of letters and digits. A run that is mostly characters of a language
without spaces has 16 of them instead of 10 words; code is compared as names and signs. Runs are
kept as 64-bit hashes in one sorted array, 8 bytes a run. A false alarm over 10^7 evaluation runs
and 10^10 corpus words has an expected count below 0.01.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megatron_in2.errors import InputError
from megatron_in2.records import Document
from megatron_in2.synthesis.corpus.config import CorpusText, DecontaminationConfig
from megatron_in2.synthesis.quality.code_units import UNITS_PER_WORD, code_units
from megatron_in2.synthesis.quality.words import (
    CHARACTERS_PER_WORD,
    characters_in,
    joined,
    words,
)
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.sources import file_records, is_text_file

_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so multiplying loses no bit


@dataclass(frozen=True)
class _Runs:
    """The runs of one text: its words or units, and each run's hash, start and length."""

    units: list[str]
    hashes: npt.NDArray[np.uint64]
    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


class EvaluationTexts:
    """The runs of texts that no document may repeat.

    Args:
        texts: the evaluation texts.
        ngram: length of a run in words.
        kind: what the texts are: prose | code.
    """

    def __init__(self, texts: Iterable[str], ngram: int, kind: CorpusText = "prose") -> None:
        self._ngram = ngram
        self._kind = kind
        hashes = [self._runs(text).hashes for text in texts]
        self._hashes = np.unique(np.concatenate(hashes)) if hashes else np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self._hashes)

    def overlap(self, text: str) -> str | None:
        """Return the first run of words that ``text`` shares, or None."""
        runs = self._runs(text)
        if not len(runs.hashes) or not len(self._hashes):
            return None
        places = np.minimum(np.searchsorted(self._hashes, runs.hashes), len(self._hashes) - 1)
        hits = np.flatnonzero(self._hashes[places] == runs.hashes)
        if not len(hits):
            return None
        first = hits[np.argmin(runs.starts[hits])]
        start, length = int(runs.starts[first]), int(runs.lengths[first])
        return joined(runs.units[start : start + length])

    def _runs(self, text: str) -> _Runs:
        if self._kind == "code":
            return _all_runs(code_units(text), self._ngram * UNITS_PER_WORD)
        found = words(text)
        characters = characters_in(found)
        if not characters.any():
            return _all_runs(found, self._ngram)
        longer = round(self._ngram * CHARACTERS_PER_WORD)
        return _mixed_runs(found, characters, self._ngram, longer)


def read_evaluation_texts(config: DecontaminationConfig) -> EvaluationTexts | None:
    """Read the evaluation files, or return None where none are named.

    Raises:
        InputError: a file is absent or unreadable, or all texts are shorter than a run.
    """
    if not config.paths:
        return None
    texts = EvaluationTexts(
        (text for path in config.paths for text in _file_texts(Path(path))),
        config.ngram,
        config.text,
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


def _all_runs(units: list[str], length: int) -> _Runs:
    hashes = _run_hashes(units, length)
    return _Runs(units, hashes, np.arange(len(hashes)), np.full(len(hashes), length))


def _mixed_runs(
    found: list[str], characters: npt.NDArray[np.bool_], ngram: int, longer: int
) -> _Runs:
    """Return runs of ``ngram`` words, and of ``longer`` words where most are characters."""
    before = np.concatenate([[0], np.cumsum(characters)])
    parts = []
    for length, of_characters in ((ngram, False), (longer, True)):
        runs = _all_runs(found, length)
        count = before[length:][: len(runs.hashes)] - before[: len(runs.hashes)]
        kept = (2 * count > length) == of_characters
        parts.append((runs.hashes[kept], runs.starts[kept], runs.lengths[kept]))
    hashes, starts, lengths = map(np.concatenate, zip(*parts, strict=True))
    return _Runs(found, hashes, starts, lengths)


def _run_hashes(units: list[str], length: int) -> npt.NDArray[np.uint64]:
    """Return a hash, modulo 2^64, of every run of ``length`` units, [units - length + 1]."""
    count = len(units) - length + 1
    if count < 1:
        return np.empty(0, np.uint64)
    hashes = np.array([xxhash.xxh64_intdigest(word.encode()) for word in units], np.uint64)
    runs = np.zeros(count, np.uint64)
    for offset in range(length):
        runs = runs * _BASE + hashes[offset : offset + count]
    return runs
