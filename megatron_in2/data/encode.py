"""Samples to token ids and target-aligned masks, by the one token rule.

``[bos] + encode(prompt) + encode(answer) + [eos]``, each ``encode`` apart with SentencePiece's own
dummy prefix, as mistral-common's v1 encoder does. The mask marks the ids that are to be
predicted: an answer's ids and its end-of-sequence, nothing else.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_in2.errors import InputError
from megatron_in2.records import EncodedSample, JoinedPart, Part, Sample
from megatron_in2.segment_store import SegmentStore
from megatron_in2.tokenizer import Tokenizer


class SampleEncoder:
    """Encodes samples with one tokenizer, opening each segment store once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stores: dict[Path, SegmentStore] = {}

    def encode(self, sample: Sample) -> EncodedSample:
        """Encode one sample.

        Raises:
            InputError: a segment store is missing, of another tokenizer, or too small; or
                nothing of the sample would be learnt.
        """
        ids: list[npt.NDArray[np.int32]] = [np.array([self._tokenizer.bos_id], np.int32)]
        learnt = [False]
        for part in sample.parts:
            ids.append(self._part_ids(part))
            learnt.append(isinstance(part, Part) and part.learn)
        mask = np.repeat(np.array(learnt, np.uint8), [len(run) for run in ids])
        if not mask.any():
            raise InputError(f"sample {sample.id!r}: nothing in it is learnt")
        return EncodedSample(
            id=sample.id,
            kind=sample.kind,
            tokens=np.concatenate(ids),
            loss_mask=mask,
            evidence_position=sample.evidence_position,
        )

    def _part_ids(self, part: Part | JoinedPart) -> npt.NDArray[np.int32]:
        tokenizer = self._tokenizer
        if isinstance(part, Part):
            ending = [tokenizer.eos_id] if part.ends_turn else []
            return np.array(tokenizer.encode(part.text) + ending, np.int32)
        store = self._store(part.store)
        if max(part.segments) >= len(store):
            raise InputError(
                f"segment {max(part.segments)} is beyond the {len(store)} of {part.store}: "
                "the samples belong to another store"
            )
        return np.concatenate(
            [
                np.array(tokenizer.encode(part.before), np.int32),
                store.join(part.segments, tokenizer.newline_id),
                np.array(tokenizer.encode_continuation(part.after), np.int32),
            ]
        )

    def _store(self, path: Path) -> SegmentStore:
        if path not in self._stores:
            store = SegmentStore(path)
            store.require_tokenizer(self._tokenizer)
            if not self._tokenizer.joins_exactly:
                raise InputError(f"{self._tokenizer.path} cannot join segments exactly")
            self._stores[path] = store
        return self._stores[path]
