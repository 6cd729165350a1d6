"""Writes the files of one seed: tokenizer, samples and probes."""

import json
import random
from pathlib import Path

import sentencepiece

from megatron_in2.effect.arms import SEQUENCE_TOKENS, Dataset
from megatron_in2.effect.world import (
    CONTROL_TOKENS,
    QUESTION_TOKENS,
    WORDS,
    Fact,
    copy_parts,
    make_context,
    question_parts,
)
from megatron_in2.files import atomic_file

PROBE_BINS = 16
PROBE_FACTS = 40
_CONTROL_PIECES = 3  # <unk>, <s>, </s>


def write_tokenizer(path: Path) -> None:
    """Train a SentencePiece model with one piece for each word."""
    with atomic_file(path, "wb") as stream:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter([" ".join(WORDS)]),
            model_writer=stream,
            model_type="word",
            vocab_size=len(WORDS) + _CONTROL_PIECES,
            normalization_rule_name="identity",
            minloglevel=1,
        )


def write_samples(path: Path, dataset: Dataset, seed: str) -> None:
    """Write a dataset's samples in parts form; every answer is trained on."""
    chance = random.Random(seed)
    with atomic_file(path) as stream:
        for index in range(dataset.samples):
            sample = {"id": f"{path.stem}-{index}", "parts": _parts(chance, dataset)}
            stream.write(json.dumps(sample) + "\n")


def write_probes(path: Path, contexts: int, seed: str) -> None:
    """Write probes in the published form: in each context the fact nearest each bin's centre.

    Prompt and answer take ``SEQUENCE_TOKENS`` tokens; ``position_id`` is the bin.
    """
    chance = random.Random(seed)
    tokens = SEQUENCE_TOKENS - CONTROL_TOKENS - QUESTION_TOKENS + 1
    with atomic_file(path) as stream:
        for index in range(contexts):
            context = make_context(chance, tokens, PROBE_FACTS)
            for position in range(PROBE_BINS):
                fact = context.nearest((position + 0.5) / PROBE_BINS)
                probe = {
                    "prompt": f"{context.text} {fact.question}",
                    "completion": fact.value,
                    "position_id": position,
                    "set_id": index,
                    "units": PROBE_BINS,
                    "task": "facts",
                    "context_tokens": SEQUENCE_TOKENS,
                }
                stream.write(json.dumps(probe) + "\n")


def _parts(chance: random.Random, dataset: Dataset) -> list[dict[str, object]]:
    """Draw one sample; draw the context again if none of its facts may be asked about."""
    tokens = chance.randint(dataset.shortest or dataset.tokens, dataset.tokens)
    if not dataset.facts:
        return copy_parts(chance, tokens)
    facts = round(dataset.facts * tokens / dataset.tokens)
    questions = min(dataset.questions, facts)
    question_tokens = questions * QUESTION_TOKENS - 1  # the last full stop is not written
    asked: list[Fact] = []
    while not asked:
        context = make_context(chance, tokens - CONTROL_TOKENS - question_tokens, facts)
        asked = context.near_the_ends(dataset.ends)
    return question_parts(context, chance.sample(asked, min(questions, len(asked))))
