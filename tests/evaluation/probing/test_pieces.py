"""Document pieces cut from a real corpus."""

import json
from pathlib import Path

from megatron_in2.evaluation.probing.pieces import (
    MAX_WORDS,
    MIN_WORDS,
    PIECE_WORDS,
    write_document_pieces,
)
from megatron_in2.synthesis.config import CorpusConfig


def test_sentences_and_pieces_as_published(corpus_file: Path, tmp_path: Path) -> None:
    corpus = CorpusConfig(paths=[str(corpus_file)])
    count = write_document_pieces(corpus, tmp_path, seed=1)
    lines = (tmp_path / "document_sentences.jsonl").read_text().splitlines()
    assert len(lines) == count > 1000
    for record in map(json.loads, lines):
        assert MIN_WORDS <= len(record["sentence"].split()) <= MAX_WORDS
        assert len(record["piece"].split()) == PIECE_WORDS
        assert record["piece"] in record["sentence"]
        assert record["sentence"][-1] in ".!?"
