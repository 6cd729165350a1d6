"""One synthesis run: corpus -> segment store -> questions -> composed samples -> X.jsonl."""

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file
from megatron_in2.progress import progress_bar
from megatron_in2.records import QAPair, Recipe, slot_position
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.compose import Composer
from megatron_in2.synthesis.config import KINDS, SynthesisConfig
from megatron_in2.synthesis.corpus import read_corpus
from megatron_in2.synthesis.report import write_report
from megatron_in2.synthesis.segments import split_into_segments
from megatron_in2.synthesis.writer import QuestionWriter, build_writer
from megatron_in2.templates import FILM, InstructionTemplate
from megatron_in2.tokenizer import Tokenizer, load_tokenizer

MAX_EVIDENCE_SHARE = 0.5  # of the longest context, for all segments of an integration document


@dataclass
class Tally:
    """What became of the evidence that was tried: samples by kind, drops by reason."""

    made: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def synthesize(
    config: SynthesisConfig, output: Path, materialize: bool = False, overwrite: bool = False
) -> Tally:
    """Make IN2 samples from a corpus.

    Writes ``output`` (JSON lines), the segment store ``output`` + ``.segments`` beside it, and
    ``output`` + ``.report.json`` / ``.report.png``.

    Args:
        config: the run's settings.
        output: samples, JSON lines.
        materialize: write whole contexts as text instead of recipes.
        overwrite: replace an output that exists.

    Raises:
        InputError: an unusable setting, corpus or output; the message names it.
    """
    config.validate()
    if output.exists() and not overwrite:
        raise InputError(f"{output} already exists: pass --overwrite or name another output")
    tokenizer = load_tokenizer(config.tokenizer_model)
    if not tokenizer.joins_exactly:
        raise InputError(f"{tokenizer.path} cannot join segments exactly: newline is no piece")
    writer = build_writer(config.writer, config.seed)
    store = _build_store(config, tokenizer, output.with_name(f"{output.name}.segments"))
    samples = _SampleMaker(config, store, tokenizer, writer, FILM)
    tally, recipes = Tally(), []
    with atomic_file(output) as stream:
        for recipe in samples.make(tally):
            record = _as_text(recipe, store) if materialize else _as_recipe(recipe, store)
            stream.write(json.dumps(record, ensure_ascii=False) + "\n")
            recipes.append((recipe.n_tokens, _positions(recipe)))
    write_report(output, tally.made, tally.dropped, recipes, store.manifest)
    return tally


def _build_store(config: SynthesisConfig, tokenizer: Tokenizer, path: Path) -> SegmentStore:
    documents = (
        (document.id, split_into_segments(document, tokenizer, config.segments.min_tokens))
        for document in progress_bar(read_corpus(config.corpus), desc="segments", unit=" documents")
    )
    store = write_store(path, documents, tokenizer)
    total = int(store.lengths.sum())
    if total < config.composition.max_tokens:
        raise InputError(
            f"the corpus holds {total} tokens, less than one context of "
            f"composition.max_tokens={config.composition.max_tokens}: add text or lower it"
        )
    return store


class _SampleMaker:
    """Walks a store in seeded order and makes the wanted number of samples of each kind."""

    def __init__(
        self,
        config: SynthesisConfig,
        store: SegmentStore,
        tokenizer: Tokenizer,
        writer: QuestionWriter,
        template: InstructionTemplate,
    ) -> None:
        self._config = config
        self._store = store
        self._tokenizer = tokenizer
        self._writer = writer
        self._template = template
        limits = config.composition
        self._composer = Composer(store, limits.min_tokens, limits.max_tokens)
        counts = np.bincount(store.documents)
        self._first = np.concatenate([[0], np.cumsum(counts)])  # each document's first segment

    def make(self, tally: Tally) -> Iterator[Recipe]:
        """Yield samples kind by kind, counting them and every drop with its reason.

        Raises:
            InputError: the corpus is too small for the number asked for.
        """
        for kind in KINDS:
            wanted = getattr(self._config.mixture, kind)
            progress = progress_bar(total=wanted, desc=kind, unit=" samples", disable=not wanted)
            made = 0
            for evidence in self._evidence(kind) if wanted else ():
                recipe = self._sample(kind, evidence, tally)
                if recipe is None:
                    continue
                yield recipe
                progress.update()
                made += 1
                if made == wanted:
                    break
            progress.close()
            tally.made[kind] = made
            if made < wanted:
                raise InputError(
                    f"the corpus yields {made} {kind} samples, mixture.{kind} asks for {wanted}: "
                    "add text or lower it"
                )

    def _evidence(self, kind: str) -> Iterator[list[int]]:
        """Yield candidate evidence: one segment, or all segments of one document."""
        units = len(self._store) if kind == "fine_grained" else len(self._first) - 1
        for unit in self._generator(kind, "order").permutation(units):
            if kind == "fine_grained":
                yield [int(unit)]
            else:
                yield list(range(int(self._first[unit]), int(self._first[unit + 1])))

    def _sample(self, kind: str, evidence: list[int], tally: Tally) -> Recipe | None:
        identity = f"{kind}/{evidence[0]}"
        limit = self._config.composition.max_tokens
        tokens = int(self._store.lengths[evidence].sum())
        if kind == "integration" and len(evidence) < 2:
            tally.dropped["integration: document has one segment"] += 1
            return None
        if tokens > (limit * MAX_EVIDENCE_SHARE if kind == "integration" else limit):
            tally.dropped[f"{kind}: evidence too long"] += 1
            return None
        texts = [self._store.text(segment) for segment in evidence]
        if kind == "integration":
            qa = self._writer.integration(texts, identity)
        else:
            qa = self._writer.fine_grained("\n".join(texts), identity)
        if qa is None:
            tally.dropped[f"{kind}: nothing to ask"] += 1
            return None
        recipe = self._compose(kind, identity, evidence, qa)
        if recipe is None:
            tally.dropped[f"{kind}: evidence too long"] += 1
        return recipe

    def _compose(self, kind: str, identity: str, evidence: list[int], qa: QAPair) -> Recipe | None:
        frame = self._frame_tokens(qa)
        if kind == "short":
            length = frame - 1 + int((self._store.lengths[evidence] + 1).sum())
            if length > self._config.composition.max_tokens:
                return None
            return Recipe(identity, kind, tuple(evidence), tuple(range(len(evidence))), qa, length)
        composed = self._composer.compose(evidence, frame, self._generator(identity))
        if composed is None:
            return None
        segments, slots, length = composed
        return Recipe(identity, kind, tuple(segments), tuple(slots), qa, length)

    def _frame_tokens(self, qa: QAPair) -> int:
        """Tokens of the encoded sample outside its context, the two control ids included."""
        before, after = self._template.around_context(qa.question)
        encoder = self._tokenizer
        prompt = len(encoder.encode(before)) + len(encoder.encode_continuation(after))
        return 1 + prompt + len(encoder.encode(qa.answer)) + 1

    def _generator(self, *key: str) -> np.random.Generator:
        entropy = zlib.crc32("/".join(key).encode())
        return np.random.default_rng([self._config.seed, entropy])


def _positions(recipe: Recipe) -> list[float]:
    """Where the evidence of a long context stands, from 0 to 1; nothing for short samples."""
    if recipe.kind == "short":
        return []
    return [slot_position(recipe.id, slot, len(recipe.segments)) for slot in recipe.evidence]


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
