"""The last stage: a question becomes a sample, as numbers or as text; runs in any process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from megatron_in2.records import QAPair, Recipe, id_hash, slot_position
from megatron_in2.segment_store import SegmentStore
from megatron_in2.synthesis.composition.compose import Composer
from megatron_in2.synthesis.composition.config import LONG_KINDS, CompositionConfig
from megatron_in2.synthesis.composition.hard_fillers import SimilarSegments
from megatron_in2.synthesis.questions.evidence import generator_for
from megatron_in2.templates.film import FILM

CHUNK_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that was accepted, on its way to a context.

    ``frame_tokens`` is the length of the encoded sample outside its context.
    """

    id: str
    kind: str
    segments: tuple[int, ...]
    qa: QAPair
    frame_tokens: int


@dataclass(frozen=True, slots=True)
class Finished:
    """A sample's line, and what the report counts of it.

    ``position`` is where one piece of evidence, chosen by the sample's id, begins in a long
    context, from 0 to 1: only one per sample, so that positions are independent.
    """

    line: str
    kind: str
    tokens: int
    position: float | None


def sample_maker(
    store_path: Path,
    index: Path | None,
    config: CompositionConfig,
    seed: int,
    template_sha256: str,
    materialize: bool,
) -> Callable[[list[Asked]], list[Finished]]:
    """Open the store in this process and return what turns questions into samples.

    Args:
        store_path: the segment store.
        index: of similar segments, for hard fillers.
        config: the composition.
        seed: of the run.
        template_sha256: of the template under which samples are counted.
        materialize: write contexts as text.
    """
    store = SegmentStore(store_path)
    maker = _SampleMaker(store, None if index is None else SimilarSegments(index), config, seed)
    # A recipe states its length; where it names no template, that is FILM's.
    counted = {} if template_sha256 == FILM.sha256 else {"template_sha256": template_sha256}

    def make(batch: list[Asked]) -> list[Finished]:
        finished = []
        for recipe in map(maker.recipe, batch):
            record = (
                _as_text(recipe, store) if materialize else {**_as_recipe(recipe, store), **counted}
            )
            line = json.dumps(record, ensure_ascii=False) + "\n"
            finished.append(Finished(line, recipe.kind, recipe.n_tokens, _position(recipe)))
        return finished

    return make


class _SampleMaker:
    def __init__(
        self,
        store: SegmentStore,
        similar: SimilarSegments | None,
        config: CompositionConfig,
        seed: int,
    ) -> None:
        self._store = store
        self._similar = similar
        self._config = config
        self._seed = seed
        self._composer = Composer(store, config.min_tokens, config.max_tokens, config.shared_run)
        budget = config.hard_share * config.max_tokens
        self._similar_count = int(2 * budget / float(np.mean(store.lengths))) + 16

    def recipe(self, asked: Asked) -> Recipe:
        evidence, frame = asked.segments, asked.frame_tokens
        if asked.kind == "short":
            segments, found, length = self._composer.original_text(evidence, frame)
            return Recipe(asked.id, asked.kind, tuple(segments), tuple(found), asked.qa, length)
        similar = None
        if self._similar is not None:
            texts = [asked.qa.question, *map(self._store.text, evidence)]
            similar = self._similar.find("\n".join(texts), self._similar_count)
        generator = generator_for(self._seed, asked.id)
        segments, found, length = self._composer.compose(
            evidence, frame, generator, similar, self._config.hard_share
        )
        return Recipe(asked.id, asked.kind, tuple(segments), tuple(found), asked.qa, length)


def _position(recipe: Recipe) -> float | None:
    if recipe.kind not in LONG_KINDS:
        return None
    slot = recipe.evidence[id_hash(recipe.id) % len(recipe.evidence)]
    return slot_position(recipe.id, slot, len(recipe.segments))


def _as_recipe(recipe: Recipe, store: SegmentStore) -> dict[str, object]:
    return {
        "id": recipe.id,
        "kind": recipe.kind,
        "store": store.path.name,
        "segments": recipe.segments,
        "evidence": recipe.evidence,
        "question": recipe.qa.question,
        "answer": recipe.qa.answer,
        "n_tokens": recipe.n_tokens,
    }


def _as_text(recipe: Recipe, store: SegmentStore) -> dict[str, object]:
    texts = [store.text(segment) for segment in recipe.segments]
    starts = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])
    return {
        "id": recipe.id,
        "kind": recipe.kind,
        "context": "\n".join(texts),
        "question": recipe.qa.question,
        "answer": recipe.qa.answer,
        "evidence": [
            [int(starts[slot]), int(starts[slot]) + len(texts[slot])] for slot in recipe.evidence
        ],
    }
