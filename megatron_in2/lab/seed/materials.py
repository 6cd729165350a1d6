"""Writes the files of one seed: tokenizer, samples and probes."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import sentencepiece

from megatron_in2.files import atomic_file
from megatron_in2.lab.worlds.base import Dataset, Measure, SmallWorld

CONTROL_PIECES = 3  # <unk>, <s>, </s>


def write_tokenizer(path: Path, words: Sequence[str]) -> None:
    """Train a SentencePiece model with one piece for each word."""
    with atomic_file(path, "wb") as stream:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter([" ".join(words)]),
            model_writer=stream,
            model_type="word",
            vocab_size=len(words) + CONTROL_PIECES,
            normalization_rule_name="identity",
            minloglevel=1,
        )


def write_samples(path: Path, world: SmallWorld, dataset: Dataset, seed: str) -> None:
    """Write a dataset's samples as JSON lines."""
    chance = random.Random(seed)
    with atomic_file(path) as stream:
        for index in range(dataset.samples):
            sample = {"id": f"{path.stem}-{index}", **world.sample(chance, dataset)}
            stream.write(json.dumps(sample) + "\n")


def write_probes(path: Path, world: SmallWorld, measure: Measure, seed: str) -> None:
    """Write a measure's probes in the published form; ``position_id`` is the group."""
    chance = random.Random(seed)
    with atomic_file(path) as stream:
        for index in range(measure.contexts):
            for probe in world.probes(chance, measure):
                labels = {"set_id": index, "units": len(measure.groups), "task": "facts"}
                stream.write(json.dumps({**probe, **labels}) + "\n")
