"""Finds fillers that look like the evidence: BM25 over segments, through ``bm25s``.

Similar segments are harder to tell from the evidence than random ones (NExtLong reports hard
negatives as better training data for long contexts than random concatenation).
"""

from pathlib import Path

import bm25s  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt

from megatron_in2.segment_store import SegmentStore

# Words of two letters or more; of languages without spaces, every character.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_TOKEN = rf"[{_UNSPACED}]|[^\W{_UNSPACED}]{{2,}}"


def build_index(store: SegmentStore, pool: int, path: Path) -> None:
    """Index ``pool`` segments of a store, evenly spread over it, into the directory ``path``."""
    segments = np.unique(np.linspace(0, len(store) - 1, min(pool, len(store))).astype(np.int64))
    tokens = bm25s.tokenize(
        [store.text(int(segment)) for segment in segments],
        token_pattern=_TOKEN,
        stopwords="en",
        show_progress=False,
    )
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    index.save(path, show_progress=False)
    np.save(path / "segments.npy", segments)


class SimilarSegments:
    """An index opened for reading, memory-mapped: processes share its pages."""

    def __init__(self, path: Path) -> None:
        self._index = bm25s.BM25.load(path, mmap=True)
        self._segments: npt.NDArray[np.int64] = np.load(path / "segments.npy")

    def find(self, text: str, count: int) -> npt.NDArray[np.int64]:
        """Return the ``count`` segments most like a text, best first; fewer if few share words."""
        words = bm25s.tokenize(
            text, token_pattern=_TOKEN, stopwords="en", return_ids=False, show_progress=False
        )[0]
        known = sorted({word for word in words if word in self._index.vocab_dict})
        if not known:
            return np.empty(0, np.int64)
        scores = self._index.get_scores(known)
        count = min(count, len(scores))
        best = np.argpartition(-scores, count - 1)[:count]
        best = best[np.lexsort((best, -scores[best]))]
        found: npt.NDArray[np.int64] = self._segments[best[scores[best] > 0]]
        return found
