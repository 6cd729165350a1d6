"""Drops documents that nearly repeat an earlier one: MinHash with banding, through ``rensa``.

About 1 KB a kept document stays in memory. Only documents of one shard are compared.
"""

from collections.abc import Iterable, Iterator

import rensa  # type: ignore[import-untyped]

from megatron_in2.records import Document
from megatron_in2.synthesis.quality.words import as_words, has_unspaced, words
from megatron_in2.synthesis.rejects import Rejects

SHINGLE_WORDS = 5
PERMUTATIONS = 128
BANDS = 32  # of 4 rows: pairs of Jaccard similarity 0.8 are found with probability 1 - 4e-8


def without_near_duplicates(
    documents: Iterable[Document], threshold: float, rejects: Rejects
) -> Iterator[Document]:
    """Yield documents; list those whose estimated Jaccard similarity to one yielded is too high.

    Args:
        documents: the documents, in order.
        threshold: similarity of 5-word shingles from which on a document is dropped.
        rejects: takes the dropped ones with what they repeat.
    """
    index = rensa.RMinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, num_bands=BANDS)
    kept: list[tuple[str, rensa.RMinHash]] = []
    for document in documents:
        sketch = rensa.RMinHash(num_perm=PERMUTATIONS, seed=1)
        sketch.update(_shingles(document.text))
        similar = [(sketch.jaccard(kept[key][1]), kept[key][0]) for key in index.query(sketch)]
        likeness, original = max(similar, default=(0.0, ""))
        if likeness >= threshold:
            rejects.drop(
                document.id,
                "document: near-duplicate",
                of=original,
                similarity=round(likeness, 3),
            )
            continue
        index.insert(len(kept), sketch)
        kept.append((document.id, sketch))
        yield document


def _shingles(text: str) -> list[str]:
    found = words(text) if has_unspaced(text) else text.lower().split()
    length = as_words(SHINGLE_WORDS, found)
    last = max(len(found) - length, 0)
    return [" ".join(found[start : start + length]) for start in range(last + 1)]
