"""Evidence of several documents shares a name, and nothing is used twice."""

from pathlib import Path

import numpy as np

from megatron_in2.records import Document
from megatron_in2.segment_store import write_store
from megatron_in2.synthesis.composition.compose import Composer
from megatron_in2.synthesis.corpus.segments import split_into_segments
from megatron_in2.synthesis.quality.names import names_in
from megatron_in2.synthesis.questions.evidence import EvidenceWalk
from megatron_in2.synthesis.questions.shared_names import SharedNames
from megatron_in2.synthesis.questions.writer import Evidence
from megatron_in2.tokenizers.base import Tokenizer

COPIED = "A long report says that Ida Brandt closed the harbour road of the town to all lorries."
TEXTS = [
    "In 2014 the mayor, Ida Brandt, closed a road. The reasons were accidents.",
    "Two years later Ida Brandt opened a museum in Jena and left politics.",
    "The first telescope came from Jena and burned in 1934.",
    f"{COPIED} Nothing else is known.",
    f"{COPIED} Others doubt it.",
    "Nobody is named here, and nothing happens at all in this text.",
    *(f"Everybody number {n} writes about Berlin every week." for n in range(12)),
]


def test_groups_share_a_name_of_few_documents(tmp_path: Path, tokenizer: Tokenizer) -> None:
    documents = (
        (f"d{number}", split_into_segments(Document(str(number), text), tokenizer, 4))
        for number, text in enumerate(TEXTS)
    )
    store = write_store(tmp_path / "store", documents, tokenizer)
    groups = list(SharedNames(store).groups(np.random.default_rng(1)))
    used = [segment for group in groups for segment in group]
    assert len(used) == len(set(used))
    assert groups
    for group in groups:
        texts = [store.text(segment) for segment in group]
        shared = set.intersection(*map(names_in, texts))
        assert shared & {"Ida Brandt", "Jena"}
        assert len({int(store.documents[segment]) for segment in group}) == len(group)
        assert sum(COPIED in text for text in texts) < 2  # one repeats the other

    walk = EvidenceWalk(store, 400, seed=1)
    found = [each for each in walk.candidates("multi_document") if isinstance(each, Evidence)]
    assert found
    assert walk.count("multi_document") == 2  # names; Berlin is in too many texts
    assert all(each.has_pieces and len(each.texts) > 1 for each in found)
    assert len({each.id for each in found}) == len(found)
    # The context holds none of the documents' other segments.
    composer = Composer(store, 60, 120)
    for each in found:
        segments, slots, _ = composer.compose(each.segments, 20, np.random.default_rng(2))
        assert sorted(segments[slot] for slot in slots) == sorted(each.segments)
        own = {int(store.documents[segment]) for segment in each.segments}
        fillers = [s for slot, s in enumerate(segments) if slot not in slots]
        assert all(int(store.documents[segment]) not in own for segment in fillers)
