"""Cuts a corpus into document pieces in the published format, to probe in a domain of one's own."""

import json
import random
import re
from pathlib import Path

from megatron_in2.evaluation.probing.tasks import TASKS
from megatron_in2.files import atomic_file
from megatron_in2.synthesis.corpus.config import CorpusConfig
from megatron_in2.synthesis.corpus.documents import read_corpus

MIN_WORDS, MAX_WORDS = 17, 31  # of a sentence, as published
PIECE_WORDS = 8  # quoted in the question

_SENTENCE = re.compile(r"[A-Z][^.!?]*[a-z][.!?](?=\s|$)")


def write_document_pieces(corpus: CorpusConfig, output: Path, seed: int) -> int:
    """Write ``output/document_sentences.jsonl``; return the number of sentences."""
    chance = random.Random(seed)
    count = 0
    with atomic_file(output / TASKS["document"].file) as stream:
        for document in read_corpus(corpus):
            for sentence in _SENTENCE.findall(re.sub(r"\s+", " ", document.text)):
                words = sentence.split(" ")
                if MIN_WORDS <= len(words) <= MAX_WORDS:
                    start = chance.randrange(len(words) - PIECE_WORDS + 1)
                    piece = " ".join(words[start : start + PIECE_WORDS])
                    line = json.dumps({"sentence": sentence, "piece": piece}, ensure_ascii=False)
                    stream.write(line + "\n")
                    count += 1
    return count
