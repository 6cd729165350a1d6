"""Contexts are as long as drawn, hold no stranger and no segment twice."""

from pathlib import Path

import numpy as np
import pytest

from megatron_in2.records import Document
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.composition.compose import Composer
from megatron_in2.synthesis.composition.hard_fillers import SimilarSegments, build_index
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.report import evenness
from megatron_in2.tokenizers.base import Tokenizer

FRAME = 60


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tokenizer: Tokenizer
) -> SegmentStore:
    documents = (
        (str(number), split_into_segments(Document(str(number), text), tokenizer, 48))
        for number, text in enumerate(texts[:250])
    )
    return write_store(tmp_path_factory.mktemp("compose") / "store", documents, tokenizer)


def test_ten_thousand_lengths_and_positions_are_even(store: SegmentStore) -> None:
    composer = Composer(store, 1024, 16_384)
    chance = np.random.default_rng(5)
    lengths, positions = [], []
    for number in range(10_000):
        evidence = [int(chance.integers(len(store)))]
        while not composer.fits(evidence, FRAME) or store.lengths[evidence[0]] > 900:
            evidence = [int(chance.integers(len(store)))]
        generator = np.random.default_rng(number)
        segments, slots, length = composer.compose(evidence, FRAME, generator)
        lengths.append(length)
        positions.append((slots[0] + chance.random()) / len(segments))
    assert evenness(np.array(lengths), 1023.5, 16_384.5)["ks_p"] > 0.01
    assert evenness(np.array(positions), 0.0, 1.0)["ks_p"] > 0.01
    # The test would see a slight unevenness: negative controls.
    assert evenness(np.array(lengths) * 0.97, 1023.5, 16_384.5)["ks_p"] < 0.01
    assert evenness(np.array(positions) ** 1.1, 0.0, 1.0)["ks_p"] < 0.01


def test_contexts_keep_their_bounds_and_hold_no_segment_twice(store: SegmentStore) -> None:
    composer = Composer(store, 256, 2000)
    for number in range(300):
        evidence = (
            [number, number + 1]
            if store.documents[number] == store.documents[number + 1]
            else [number]
        )
        if not composer.fits(evidence, FRAME):
            continue
        segments, slots, length = composer.compose(evidence, FRAME, np.random.default_rng(number))
        assert length == FRAME - 1 + sum(int(store.lengths[s]) + 1 for s in segments)
        assert 256 <= length <= 2000
        assert len(set(segments)) == len(segments)
        assert sorted(segments[slot] for slot in slots) == sorted(evidence)
        strangers = [s for slot, s in enumerate(segments) if slot not in slots]
        assert all(store.documents[s] != store.documents[evidence[0]] for s in strangers)


def test_an_original_text_is_the_document_or_what_fits_around_the_evidence(
    store: SegmentStore,
) -> None:
    counts = np.bincount(store.documents)
    document = int(np.argmax(counts))
    own = np.flatnonzero(store.documents == document).tolist()
    assert len(own) > 8
    whole = Composer(store, 10, 100_000)
    assert whole.original_text(own, FRAME)[:2] == (own, list(range(len(own))))
    all_tokens = whole.needed_tokens(own, FRAME)
    for number, evidence in enumerate(own):
        assert whole.original_text([evidence], FRAME) == (own, [number], all_tokens)
        narrow = Composer(store, 10, all_tokens // 2)
        segments, slots, length = narrow.original_text([evidence], FRAME)
        assert [segments[slot] for slot in slots] == [evidence]
        assert segments == own[own.index(segments[0]) :][: len(segments)]  # nothing left out
        assert length == narrow.needed_tokens(segments, FRAME) <= all_tokens // 2
        beside = [s for s in (segments[0] - 1, segments[-1] + 1) if s in own]
        assert beside
        assert all(length + int(store.lengths[s]) + 1 > all_tokens // 2 for s in beside)


def test_evidence_that_is_too_long_does_not_fit(store: SegmentStore) -> None:
    longest = int(np.argmax(store.lengths))
    composer = Composer(store, 10, int(store.lengths[longest]) + FRAME - 1)
    assert not composer.fits([longest], FRAME)
    assert composer.fits([int(np.argmin(store.lengths))], FRAME)


def test_similar_segments_take_their_share(store: SegmentStore, tmp_path: Path) -> None:
    build_index(store, 2000, tmp_path)
    similar = SimilarSegments(tmp_path)
    composer = Composer(store, 4000, 4000)
    evidence = [100]
    found = similar.find(store.text(100), 200)
    assert len(found) == len(set(found.tolist())) > 50
    segments, _, _ = composer.compose(evidence, FRAME, np.random.default_rng(1), found, 0.5)
    taken = [s for s in segments if s in set(found.tolist())]
    tokens = int(store.lengths[taken].sum())
    assert 1200 < tokens < 2400
    assert similar.find("zzzz qqqq", 10).tolist() == []
    again = SimilarSegments(tmp_path).find(store.text(100), 200)
    assert again.tolist() == found.tolist()
