"""Samples to token ids and target-aligned masks.

A sample is a list of parts, which its template has made: control tokens, and runs of text, each
encoded apart. The mask marks the ids that are to be predicted: an answer's ids and the control
token that ends it, nothing else.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_in2.data.packing.encoding.samples import SampleError
from megatron_in2.data.packing.encoding.truncate import shortened
from megatron_in2.errors import InputError
from megatron_in2.records import (
    ContextPart,
    ControlPart,
    EncodedSample,
    JoinedPart,
    Part,
    Sample,
    SamplePart,
    id_hash,
)
from megatron_in2.segment_store import SegmentStore
from megatron_in2.tokenizers.base import Tokenizer, control_id

# A recipe states its length as its parts have it. Where a token may end in a newline, those at the
# borders of the parts can differ, by so many tokens at most in 20,000 joins tried.
BORDER_TOKENS = 16
_TRIES = 3  # of a truncation that leaves a context too long by a few tokens at new borders


@dataclass(frozen=True, slots=True)
class StoreRun:
    """Ids that are in a segment store (a directory): segments joined by newlines."""

    store: str
    segments: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CompactSample:
    """An encoded sample that is small to hold and to send: joined ids stay in their store.

    ``runs`` are its ids in order, as bytes of the tokenizer's dtype or by reference; ``trained``
    are the [start, end) spans of the mask; ``length`` counts its ids.
    """

    id_hash: int
    kind: str
    length: int
    runs: tuple[bytes | StoreRun, ...]
    trained: tuple[tuple[int, int], ...]
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
            store.expect_random_reads()
            self._stores[key] = store
        return self._stores[key]

    def paths(self) -> list[str]:
        """Return the stores that were opened, in order."""
        return list(self._stores)

    def ids(self, run: bytes | StoreRun) -> bytes:
        """Return a run's ids as bytes of the tokenizer's dtype."""
        if isinstance(run, bytes):
            return run
        return self.open(run.store).join_bytes(run.segments, self._tokenizer.line_end)


class SampleEncoder:
    """Encodes samples with one tokenizer.

    ``notes`` counts what is worth a line in the report.

    Args:
        tokenizer: the run's.
        max_tokens: cut fillers from the context of a sample longer than so many tokens; 0: never.
        verify_joins: share of recipes, by their id's hash, whose joined ids are compared with
            the tokenizer's ids of the whole text.
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
        self._texts = tokenizer.text_encoder()
        self._max_tokens = max_tokens
        self._row_tokens = row_tokens
        self._verify_joins = verify_joins
        self.stores = SegmentStores(tokenizer)
        self.notes: Counter[str] = Counter()

    def encode(self, sample: Sample) -> EncodedSample:
        """Encode one sample to arrays; raises as :meth:`encode_compact` does."""
        compact = self.encode_compact(sample)
        raw = b"".join(map(self.stores.ids, compact.runs))
        mask = np.zeros(compact.length, np.uint8)
        for start, end in compact.trained:
            mask[start:end] = 1
        return EncodedSample(
            id=sample.id,
            kind=sample.kind,
            tokens=np.frombuffer(raw, self._texts.dtype).astype(np.int32),
            loss_mask=mask,
            evidence_position=compact.evidence_position,
        )

    def encode_compact(self, sample: Sample) -> CompactSample:
        """Encode one sample.

        Raises:
            SampleError: nothing of it is trained on, a trained part has no ids, or it does not
                belong to its store.
            InputError: a segment store is missing or of another tokenizer.
        """
        if self._row_tokens:
            least = self._texts.least_tokens(sum(map(_characters, sample.parts)))
            if least > self._row_tokens:
                return CompactSample(id_hash(sample.id), sample.kind, least, (), (), None)
        encoded = self._encoded(sample)
        if not self._max_tokens or encoded.length <= self._max_tokens:
            return encoded
        excess = encoded.length - self._max_tokens
        for _ in range(_TRIES):
            short = shortened(
                sample, excess, lambda part: self.stores.open(part.store), self._count_line
            )
            if short is None:
                return encoded
            cut = self._encoded(short)
            if cut.length <= self._max_tokens:
                self.notes["contexts truncated"] += 1
                break
            excess += cut.length - self._max_tokens  # tokens at the new borders
        return cut

    def _encoded(self, sample: Sample) -> CompactSample:
        key = id_hash(sample.id)
        runs: list[bytes | StoreRun] = []
        trained: list[tuple[int, int]] = []
        length = 0
        for index, part in enumerate(sample.parts):
            part_runs, size = self._part_runs(part, key)
            if isinstance(part, Part | ControlPart) and part.learn:
                self._note_border(sample, index)
                if isinstance(part, Part) and not size:
                    raise SampleError(
                        f"sample {sample.id!r}: the answer {part.text!r:.60} has no tokens",
                        "answer without tokens",
                    )
                if trained and trained[-1][1] == length:
                    trained[-1] = (trained[-1][0], length + size)
                else:
                    trained.append((length, length + size))
            runs += part_runs
            length += size
        if not trained:
            raise SampleError(
                f"sample {sample.id!r}: nothing in it is trained on", "nothing trained on"
            )
        stated = length if sample.stated_tokens is None else sample.stated_tokens
        tolerance = 0 if self._tokenizer.line_end else BORDER_TOKENS
        if abs(stated - length) > tolerance and self._tokenizer.joins_exactly:
            raise SampleError(
                f"sample {sample.id!r} states n_tokens={sample.stated_tokens} but has {length}: "
                "it belongs to another segment store",
                "another segment store",
            )
        position = sample.evidence_position
        return CompactSample(key, sample.kind, length, tuple(runs), tuple(trained), position)

    def _note_border(self, sample: Sample, index: int) -> None:
        """Count answers whose first characters the tokenizer may join with their prompt's last.

        They are encoded apart all the same, as a model generates them.
        """
        part, before = sample.parts[index], sample.parts[index - 1]
        if not isinstance(part, Part) or isinstance(before, ControlPart):
            return
        border = self._tokenizer.prompt_border
        if border == "newline":
            ends = before.text if isinstance(before, Part) else before.after
            behind_newline = ends.endswith("\n") and self._tokenizer.joins_behind_newline(part.text)
            joins = behind_newline or (part.text.startswith(" ") and not ends[-1:].isspace())
        else:
            spaced = part.follows == "nothing" or part.text.startswith(" ")
            joins = border == "unknown" or spaced
        if not joins:
            self.notes["answers that a whole text's ids would join with their prompt"] += 1

    def _part_runs(self, part: SamplePart, key: int) -> tuple[list[bytes | StoreRun], int]:
        """Return a part's runs and the number of its ids."""
        match part:
            case JoinedPart():
                return self._joined_runs(part, key)
            case ContextPart():
                text = f"{part.before}{part.context}{part.after}"
                raw = self._texts.encode(text, part.follows)
            case Part():
                raw = self._texts.encode(part.text, part.follows)
            case ControlPart():
                index = control_id(self._tokenizer, part.token)
                raw = b"" if index is None else np.array(index, self._texts.dtype).tobytes()
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
            raw = self._texts.encode(_whole_text(part, store), part.follows)
            return [raw], self._ids(raw)
        if store.holds_newlines:
            runs = self._runs_between_breaks(part, store, segments)
        else:
            before = self._texts.encode(part.before, part.follows)
            after = self._texts.encode(part.after, "text")
            runs = [before, StoreRun(str(part.store), segments), after]
        if key < self._verify_joins * 2**64:
            self._verify(part, store, b"".join(map(self.stores.ids, runs)))
        return runs, sum(self._run_length(run) for run in runs)

    def _runs_between_breaks(
        self, part: JoinedPart, store: SegmentStore, segments: npt.NDArray[np.int64]
    ) -> list[bytes | StoreRun]:
        """Return the runs of a recipe whose segments hold their newlines.

        A segment that cannot be encoded apart from the line before it is encoded as text, with
        that line; so is the last one, whose newline may be one token with what follows it.
        """
        begins = ~store.breaks[segments]  # it can be encoded apart from what precedes it
        if not begins.all():
            self.notes["recipes with segments encoded as text: a border does not join"] += 1
        as_text = np.flatnonzero(~(begins & np.append(begins[1:], False)))
        runs: list[bytes | StoreRun] = []
        text, done = part.before, 0
        for place in as_text.tolist():
            if begins[place]:
                runs.append(self._texts.encode(text, "text" if runs else part.follows))
                if place > done:
                    runs.append(StoreRun(str(part.store), segments[done:place]))
                text = ""
            text += store.text(int(segments[place])) + "\n"
            done = place + 1
        text = text.removesuffix("\n") + part.after
        runs.append(self._texts.encode(text, "text" if runs else part.follows))
        return runs

    def _run_length(self, run: bytes | StoreRun) -> int:
        if isinstance(run, bytes):
            return self._ids(run)
        return self.stores.open(run.store).joined_length(run.segments)

    def _verify(self, part: JoinedPart, store: SegmentStore, joined: bytes) -> None:
        whole = self._tokenizer.encode(_whole_text(part, store), part.follows)
        if np.array(whole, self._texts.dtype).tobytes() != joined:
            raise InputError(
                f"joined ids of segments of {part.store} differ from their whole text's: the store "
                "is damaged or of another tokenizer; synthesize it again"
            )
        self.notes["joins verified against whole texts"] += 1

    def _count_line(self, line: str) -> int:
        return self._ids(self._texts.encode(line + "\n", "text"))

    def _ids(self, raw: bytes) -> int:
        return len(raw) // self._texts.dtype.itemsize


def _characters(part: SamplePart) -> int:
    """Return how long a part's own text is."""
    match part:
        case ControlPart():
            return 0
        case JoinedPart():
            return len(part.before) + len(part.after)
        case Part():
            return len(part.text)
        case ContextPart():
            return len(part.context)


def _whole_text(part: JoinedPart, store: SegmentStore) -> str:
    return part.before + "\n".join(map(store.text, part.segments)) + part.after
