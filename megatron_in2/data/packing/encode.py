"""Samples to token ids and target-aligned masks, by the one token rule.

``[bos] + encode(prompt) + encode(answer) + [eos]``, each ``encode`` apart with SentencePiece's own
dummy prefix, as mistral-common's v1 encoder does. The mask marks the ids that are to be
predicted: an answer's ids and its end-of-sequence, nothing else.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packing.samples import SampleError
from megatron_in2.data.packing.truncate import shortened
from megatron_in2.errors import InputError
from megatron_in2.records import ContextPart, EncodedSample, JoinedPart, Part, Sample, id_hash
from megatron_in2.segment_store import SegmentStore
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.word_cache import WordEncoder


@dataclass(frozen=True, slots=True)
class StoreRun:
    """Ids that stand in a segment store (a directory): segments joined by newlines."""

    store: str
    segments: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CompactSample:
    """An encoded sample that is small to hold and to send: joined ids stay in their store.

    ``runs`` are its ids in order, as bytes of the tokenizer's dtype or by reference; ``learnt``
    are the [start, end) spans of the mask; ``length`` counts its ids.
    """

    id_hash: int
    kind: str
    length: int
    runs: tuple[bytes | StoreRun, ...]
    learnt: tuple[tuple[int, int], ...]
    evidence_position: float | None


class SegmentStores:
    """The segment stores of a run, each opened once and checked against the tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stores: dict[str, SegmentStore] = {}

    def open(self, path: Path | str) -> SegmentStore:
        """Return the store at a path.

        Raises:
            InputError: it is missing, damaged, or was tokenised otherwise although its ids are
                to be joined.
        """
        key = str(path)
        if key not in self._stores:
            store = SegmentStore(Path(path))
            if self._tokenizer.joins_exactly:
                store.require_tokenizer(self._tokenizer)
            self._stores[key] = store
        return self._stores[key]

    def paths(self) -> list[str]:
        """Return the stores that were opened, in order."""
        return list(self._stores)

    def ids(self, run: bytes | StoreRun) -> bytes:
        """Return a run's ids as bytes of the tokenizer's dtype."""
        if isinstance(run, bytes):
            return run
        return self.open(run.store).join_bytes(run.segments, self._tokenizer.newline_id)


class SampleEncoder:
    """Encodes samples with one tokenizer.

    ``notes`` counts what is worth a line in the report.

    Args:
        tokenizer: the run's.
        max_tokens: cut fillers from the context of a sample longer than so many tokens; 0: never.
        verify_joins: share of recipes, by their id's hash, whose joined ids are compared with
            SentencePiece's ids of the whole text.
        row_tokens: a sample whose text is certainly longer comes back without ids, for encoding
            takes much memory: its length says how many it has at least; 0: no limit.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        max_tokens: int = 0,
        verify_joins: float = 0.0,
        row_tokens: int = 0,
    ) -> None:
        self._tokenizer = tokenizer
        self._words = WordEncoder(tokenizer)
        self._max_tokens = max_tokens
        self._row_tokens = row_tokens
        self._verify_joins = verify_joins
        self._bos = np.array(tokenizer.bos_id, self._words.dtype).tobytes()
        self._eos = np.array(tokenizer.eos_id, self._words.dtype).tobytes()
        self.stores = SegmentStores(tokenizer)
        self.notes: Counter[str] = Counter()

    def encode(self, sample: Sample) -> EncodedSample:
        """Encode one sample to arrays; raises as :meth:`encode_compact` does."""
        compact = self.encode_compact(sample)
        raw = b"".join(map(self.stores.ids, compact.runs))
        mask = np.zeros(compact.length, np.uint8)
        for start, end in compact.learnt:
            mask[start:end] = 1
        return EncodedSample(
            id=sample.id,
            kind=sample.kind,
            tokens=np.frombuffer(raw, self._words.dtype).astype(np.int32),
            loss_mask=mask,
            evidence_position=compact.evidence_position,
        )

    def encode_compact(self, sample: Sample) -> CompactSample:
        """Encode one sample.

        Raises:
            SampleError: nothing of it would be learnt, a learnt part has no ids, or it does not
                belong to its store.
            InputError: a segment store is missing or of another tokenizer.
        """
        if self._row_tokens:
            least = self._words.least_tokens(sum(map(_characters, sample.parts)))
            if least > self._row_tokens:
                return CompactSample(id_hash(sample.id), sample.kind, least, (), (), None)
        encoded = self._encoded(sample)
        if not self._max_tokens or encoded.length <= self._max_tokens:
            return encoded
        excess = encoded.length - self._max_tokens
        short = shortened(sample, excess, lambda part: self.stores.open(part.store), self._count)
        if short is None:
            return encoded
        cut = self._encoded(short)
        if cut.length <= self._max_tokens:
            self.notes["contexts truncated"] += 1
        return cut

    def _encoded(self, sample: Sample) -> CompactSample:
        key = id_hash(sample.id)
        runs: list[bytes | StoreRun] = [self._bos]
        learnt: list[tuple[int, int]] = []
        length = 1
        for part in sample.parts:
            part_runs, size = self._part_runs(part, key)
            if isinstance(part, Part) and part.learn:
                if size <= part.ends_turn:
                    raise SampleError(
                        f"sample {sample.id!r}: the answer {part.text!r:.60} has no tokens",
                        "answer without tokens",
                    )
                if learnt and learnt[-1][1] == length:
                    learnt[-1] = (learnt[-1][0], length + size)
                else:
                    learnt.append((length, length + size))
            runs += part_runs
            length += size
        if not learnt:
            raise SampleError(f"sample {sample.id!r}: nothing in it is learnt", "nothing learnt")
        if sample.stated_tokens not in (None, length) and self._tokenizer.joins_exactly:
            raise SampleError(
                f"sample {sample.id!r} states n_tokens={sample.stated_tokens} but has {length}: "
                "it belongs to another segment store",
                "another segment store",
            )
        position = sample.evidence_position
        return CompactSample(key, sample.kind, length, tuple(runs), tuple(learnt), position)

    def _part_runs(
        self, part: Part | JoinedPart | ContextPart, key: int
    ) -> tuple[list[bytes | StoreRun], int]:
        """Return a part's runs and the number of its ids."""
        if isinstance(part, JoinedPart):
            return self._joined_runs(part, key)
        if isinstance(part, ContextPart):
            raw = self._words.encode(f"{part.before}{part.context}{part.after}")
        else:
            raw = self._words.encode(part.text) + (self._eos if part.ends_turn else b"")
        return [raw], self._ids(raw)

    def _joined_runs(self, part: JoinedPart, key: int) -> tuple[list[bytes | StoreRun], int]:
        store = self.stores.open(part.store)
        if max(part.segments) >= len(store):
            raise SampleError(
                f"segment {max(part.segments)} is beyond the {len(store)} of {part.store}: "
                "the samples belong to another store",
                "another segment store",
            )
        segments = np.array(part.segments, np.int64)
        if not self._tokenizer.joins_exactly:
            self.notes["recipes encoded as whole texts: this tokenizer cannot join exactly"] += 1
            raw = self._words.encode(_whole_text(part, store))
            return [raw], self._ids(raw)
        before = self._words.encode(part.before)
        after = self._words.encode_continuation(part.after)
        run = StoreRun(str(part.store), segments)
        if key < self._verify_joins * 2**64:
            self._verify(part, store, before + self.stores.ids(run) + after)
        return [before, run, after], self._ids(before + after) + store.joined_length(segments)

    def _verify(self, part: JoinedPart, store: SegmentStore, joined: bytes) -> None:
        whole = self._tokenizer.encode(_whole_text(part, store))
        if np.array(whole, self._words.dtype).tobytes() != joined:
            raise InputError(
                f"joined ids of segments of {part.store} differ from their whole text's: the store "
                "is damaged or of another tokenizer; synthesize it again"
            )
        self.notes["joins verified against whole texts"] += 1

    def _count(self, line: str) -> int:
        return self._ids(self._words.encode_continuation(line))

    def _ids(self, raw: bytes) -> int:
        return len(raw) // self._words.dtype.itemsize


def _characters(part: Part | JoinedPart | ContextPart) -> int:
    """Return how long a part's own text is."""
    if isinstance(part, JoinedPart):
        return len(part.before) + len(part.after)
    return len(part.text if isinstance(part, Part) else part.context)


def _whole_text(part: JoinedPart, store: SegmentStore) -> str:
    return part.before + "\n".join(map(store.text, part.segments)) + part.after
