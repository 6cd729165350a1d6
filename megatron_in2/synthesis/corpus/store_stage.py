"""The first stage: corpus -> kept documents -> segments, tokenised once, in a store.

An existing store that was made from the same sources and settings is reused, so a stopped run
continues after this stage.
"""

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file, sha256_of_text
from megatron_in2.progress import progress_bar
from megatron_in2.records import Document
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.shards import Shard
from megatron_in2.synthesis.config import SynthesisConfig
from megatron_in2.synthesis.corpus.config import SegmentConfig
from megatron_in2.synthesis.corpus.decontamination import read_evaluation_texts, without_overlap
from megatron_in2.synthesis.corpus.documents import read_corpus
from megatron_in2.synthesis.corpus.near_duplicates import without_near_duplicates
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.rejects import Rejects
from megatron_in2.synthesis.workers import ordered_map
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.load import load_tokenizer

CHUNK_DOCUMENTS = 64

Segments = list[tuple[str, list[int]]]
Texts = Callable[[], Iterator[tuple[str, Any]]]


def build_store(
    config: SynthesisConfig,
    shard: Shard,
    tokenizer: Tokenizer,
    output: Path,
    workers: int,
    texts: Texts,
) -> SegmentStore:
    """Return the segment store ``output`` + ``.segments``, made if it does not exist yet.

    ``output`` is removed when a store that it refers to is replaced, and not before.
    Documents left out are listed in ``output`` + ``.dropped_documents.jsonl``.

    Args:
        config: the run's.
        shard: which part of the corpus.
        tokenizer: cuts and counts.
        output: the shard's.
        workers: processes that cut.
        texts: yields (place, text) of the corpus.

    Raises:
        InputError: an unusable corpus, or one smaller than one context.
    """
    path = output.with_name(f"{output.name}.segments")
    dropped = output.with_name(f"{output.name}.dropped_documents.jsonl")
    origin = _origin(config, shard, tokenizer)
    store = _reusable_store(path, origin) if dropped.exists() else None
    if store is not None:
        _require_one_context(store.manifest["tokens"], config)
        return store
    tokens = 0

    def counted(documents: Iterator[tuple[str, Segments]]) -> Iterator[tuple[str, Segments]]:
        nonlocal tokens
        for identity, segments in documents:
            tokens += sum(len(ids) for _, ids in segments)
            yield identity, segments

    with atomic_file(dropped) as stream:
        rejects = Rejects(stream)
        documents = _kept_documents(config, shard, rejects, texts)
        segmented = ordered_map(
            partial(_cutter, config.tokenizer_model, config.segments),
            progress_bar(documents, desc="segments", unit=" documents"),
            workers,
            CHUNK_DOCUMENTS,
        )

        def notes() -> dict[str, Any]:
            """Remove the output that refers to the old store, now that the new one is complete."""
            _require_one_context(tokens, config)
            output.unlink(missing_ok=True)
            return {"origin": origin, "dropped": dict(rejects.counts)}

        return write_store(path, counted(segmented), tokenizer, notes)


def _require_one_context(tokens: int, config: SynthesisConfig) -> None:
    if tokens < config.composition.max_tokens:
        raise InputError(
            f"the corpus holds {tokens:,} tokens, less than one context of "
            f"composition.max_tokens={config.composition.max_tokens}: add text or lower it"
        )


def _kept_documents(
    config: SynthesisConfig, shard: Shard, rejects: Rejects, texts: Texts
) -> Iterator[Document]:
    documents = read_corpus(config.corpus, shard, rejects, texts())
    evaluation = read_evaluation_texts(config.decontamination)
    if evaluation is not None:
        documents = without_overlap(documents, evaluation, rejects)
    if config.near_duplicates.threshold:
        threshold = config.near_duplicates.threshold
        documents = without_near_duplicates(documents, threshold, rejects)
    return documents


def _cutter(
    tokenizer_model: str, config: SegmentConfig
) -> Callable[[list[Document]], list[tuple[str, Segments]]]:
    tokenizer = load_tokenizer(tokenizer_model)

    def cut(documents: list[Document]) -> list[tuple[str, Segments]]:
        return [
            (
                document.id,
                split_into_segments(document, tokenizer, config.min_tokens, config.max_tokens),
            )
            for document in documents
        ]

    return cut


def _origin(config: SynthesisConfig, shard: Shard, tokenizer: Tokenizer) -> str:
    """Return a hash of everything that decides what the store holds."""
    paths = [*config.corpus.paths, *config.decontamination.paths]
    files = [(path, *_size_and_time(Path(path))) for path in paths]
    sections = (config.corpus, config.decontamination, config.near_duplicates, config.segments)
    parts = [repr(sections), repr(shard), files, tokenizer.sha256]
    if config.corpus.source == "python":
        parts.append(sys.version)
    return sha256_of_text(json.dumps(parts, sort_keys=True))


def _size_and_time(path: Path) -> tuple[int, int]:
    if not path.exists():
        return (-1, -1)  # the reader names what is absent
    state = path.stat()
    return (state.st_size, state.st_mtime_ns)


def _reusable_store(path: Path, origin: str) -> SegmentStore | None:
    if not (path / "store.json").is_file():
        return None
    store = SegmentStore(path)
    return store if store.manifest.get("origin") == origin else None
