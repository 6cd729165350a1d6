"""Writes the files of one seed: tokenizer, samples, packed rows and probes."""

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import sentencepiece

from megatron_in2.data.packing.config import PreprocessConfig
from megatron_in2.data.packing.preprocess import preprocess
from megatron_in2.files import atomic_file, read_json_lines
from megatron_in2.lab.config import Selection
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


def scaled(dataset: Dataset, selection: Selection) -> Dataset:
    """Return a dataset with its share of the samples."""
    return replace(dataset, samples=max(round(dataset.samples * selection.scale), 1))


def pack_samples(dataset: Dataset, samples: Path, rows: Path, tokenizer: Path) -> str:
    """Pack a dataset's samples; return one line on what came of it."""
    config = PreprocessConfig(
        input=[samples],
        output_prefix=rows,
        tokenizer_model=str(tokenizer),
        seq_length=dataset.row_tokens,
        template=dataset.template,
        design=dataset.design,
        generic_system="",
        pad_multiple=1,
    )
    manifest = preprocess(config)["train"]
    return (
        f"{samples.stem}: {manifest.samples:,} samples, {manifest.rows:,} rows of "
        f"{manifest.seq_length:,}, trained on {manifest.learnt_fraction:.1%}"
    )


def write_judged(measure: Measure, probes: Path, replies: Path, output: Path) -> None:
    """Write predictions that have only the part of each reply that the measure judges."""
    pairs = zip(read_json_lines(probes), read_json_lines(replies), strict=True)
    with atomic_file(output) as stream:
        for (_, probe), (_, reply) in pairs:
            text = measure.judged(probe, reply["samples"][0])
            stream.write(json.dumps({**reply, "samples": [text]}) + "\n")
