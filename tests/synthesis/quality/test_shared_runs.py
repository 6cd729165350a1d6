"""No filler holds the asked sentence: measured before and after, by a comparison of texts."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_in2.records import Document
from megatron_in2.segment_store import SegmentStore, write_store
from megatron_in2.synthesis.composition.compose import Composer
from megatron_in2.synthesis.composition.hard_fillers import SimilarSegments, build_index
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.quality.shared_runs import SharedRuns
from megatron_in2.tokenizers.base import Tokenizer

FRAME = 60
SAMPLES = 120
NOTICES = [
    "This report may be copied in full as long as the name of its author is kept with it.",
    "Readers who find a mistake are asked to send a note to the editors before the end of May.",
    "The figures were collected by hand and rounded to the nearest hundred for this edition.",
    "本报告可以全文转载，但必须保留作者的姓名以及原始出处的完整链接。",
    "def read_all(path): return [line.strip() for line in open(path, encoding='utf-8')]",
]


@pytest.fixture(scope="module")
def store(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], tokenizer: Tokenizer
) -> SegmentStore:
    """Prose, with one of the notices in every sixth text."""
    chance = random.Random(3)
    documents = []
    for number, text in enumerate(texts[:200]):
        lines = [line for line in text.split("\n") if line.strip()]
        if number % 6 == 0:
            notice = chance.choice(NOTICES)
            lines.insert(chance.randrange(len(lines) + 1), f"By {lines[0][:20]}. {notice}")
        documents.append(Document(str(number), "\n".join(lines)))
    cut = ((each.id, split_into_segments(each, tokenizer, 48)) for each in documents)
    return write_store(tmp_path_factory.mktemp("runs") / "store", cut, tokenizer)


def _share_with_a_second_place(
    store: SegmentStore, shared_run: int, similar: SimilarSegments | None
) -> float:
    """Compose contexts for questions about notices; return how many have the notice twice."""
    composer = Composer(store, 2000, 4000, shared_run)
    holders = {
        segment: notice
        for segment in range(len(store))
        for notice in NOTICES
        if notice in store.text(segment) and composer.fits([segment], FRAME)
    }
    assert len(holders) > 30
    twice = 0
    for number in range(SAMPLES):
        evidence = list(holders)[number % len(holders)]
        found = similar.find(store.text(evidence), 60) if similar is not None else None
        segments, slots, length = composer.compose(
            [evidence], FRAME, np.random.default_rng(number), found, 0.5
        )
        assert 2000 <= length <= 4000
        fillers = [store.text(s) for slot, s in enumerate(segments) if slot not in slots]
        twice += any(holders[evidence] in text for text in fillers)
    return twice / SAMPLES


def test_no_random_filler_holds_the_asked_sentence(store: SegmentStore) -> None:
    before = _share_with_a_second_place(store, 0, None)
    print(f"random fillers: {before:.1%} hold the asked sentence if nothing is compared")
    assert before > 0.05
    assert _share_with_a_second_place(store, 8, None) == 0.0


def test_no_hard_filler_holds_the_asked_sentence(store: SegmentStore, tmp_path: Path) -> None:
    build_index(store, len(store), tmp_path)
    similar = SimilarSegments(tmp_path)
    before = _share_with_a_second_place(store, 0, similar)
    print(f"hard fillers: {before:.1%} hold the asked sentence if nothing is compared")
    assert before > 0.5
    assert _share_with_a_second_place(store, 8, similar) == 0.0


def test_few_fillers_are_refused_without_a_reason(store: SegmentStore) -> None:
    """Common phrases are shorter than a run: the draw stays as random as it was."""
    compared, refused = SharedRuns(store, 8), 0
    plain = [s for s in range(len(store)) if not any(n in store.text(s) for n in NOTICES)]
    for segment in plain[:60]:
        others = np.array([s for s in plain if store.documents[s] != store.documents[segment]])
        refused += int(compared.runs([segment]).shared_by(others[:400]).sum())
    print(f"{refused / (60 * 400):.2%} of the pairs of other segments share a run")
    assert refused / (60 * 400) < 0.01


class _Ids:
    """A store of given ids, as far as runs are concerned."""

    def __init__(self, segments: list[list[int]]) -> None:
        self._segments = segments

    def joined_ids(self, segments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = [np.array(self._segments[int(segment)], np.uint16) for segment in segments]
        return np.concatenate(chosen), np.array([len(each) for each in chosen])


def _runs(ids: list[int], run: int) -> set[tuple[int, ...]]:
    return {tuple(ids[start : start + run]) for start in range(len(ids) - run + 1)}


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=12), min_size=2, max_size=6),
    st.integers(1, 9),
)
def test_a_run_is_shared_exactly_if_the_ids_say_so(segments: list[list[int]], run: int) -> None:
    store = _Ids(segments)
    others = np.arange(1, len(segments))
    shared = SharedRuns(store, run).runs([0]).shared_by(others)  # type: ignore[arg-type]
    wanted = [bool(_runs(segments[0], run) & _runs(segments[o], run)) for o in others]
    assert shared.tolist() == wanted
