"""Draws a trained model's attempts, and makes samples of them.

The questions about one context are answered together, by the probing tool's answerer, greedily:
the context is computed once. A run that is killed here draws all of them again.
"""

import itertools
import json
import random
from collections.abc import Mapping

from megatron_in2.errors import InputError
from megatron_in2.evaluation.probing.checkpoint_answers import CheckpointAnswerer
from megatron_in2.evaluation.probing.generate import generate_predictions
from megatron_in2.files import atomic_file, read_json_lines
from megatron_in2.lab.seed.places import SeedFolder
from megatron_in2.lab.worlds.base import AttemptSamples, Dataset, Record, SmallWorld

_QUESTIONS = "questions"  # the name of the probes that the model answers
_TOGETHER = 16  # questions about one context that are answered at a time


def draw_attempts(
    world: SmallWorld, datasets: Mapping[str, Dataset], home: SeedFolder, seed: str
) -> None:
    """Ask a model questions, and write the samples of every dataset that is made of its answers.

    All datasets have the same contexts, questions and answers.

    Args:
        world: of the samples.
        datasets: by name.
        home: has ``huggingface/``, the model; gets the questions, the replies and the samples.
        seed: of the contexts, and of the choice of questions.

    Raises:
        InputError: the datasets differ in what is asked.
    """
    assert world.attempts is not None
    first, questions = next(iter(datasets.values())), home.probes(_QUESTIONS)
    asked = _questions(world.attempts, first, seed)
    for name, dataset in datasets.items():
        if dataset is not first and _questions(world.attempts, dataset, seed) != asked:
            raise InputError(f"dataset {name} asks {first.drawn_from} other questions than another")
    with atomic_file(questions) as stream:
        for probe in itertools.chain.from_iterable(asked):
            stream.write(json.dumps(probe) + "\n")
    replies = home.path / f"{_QUESTIONS}.replies.jsonl"
    answerer = CheckpointAnswerer(home.path / "huggingface", 1, _TOGETHER)
    generate_predictions(answerer, questions, replies)
    said = (str(reply["samples"][0]) for _, reply in read_json_lines(replies))
    texts = [list(itertools.islice(said, len(probes))) for probes in asked]
    for name, dataset in datasets.items():
        chance = random.Random(f"{seed}/chosen")
        with atomic_file(home.samples(name)) as stream:
            for index, (probes, answers) in enumerate(zip(asked, texts, strict=True)):
                if not any(map(str.strip, answers)):
                    continue  # a model that is hardly trained may say nothing at all
                sample = world.attempts.sample(chance, dataset, probes, answers)
                stream.write(json.dumps({"id": f"{name}-{index}", **sample}) + "\n")


def _questions(attempts: AttemptSamples, dataset: Dataset, seed: str) -> list[list[Record]]:
    """Return the probes about each context."""
    chance = random.Random(f"{seed}/questions")
    return [attempts.questions(chance, dataset) for _ in range(dataset.samples)]
