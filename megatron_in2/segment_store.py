"""The segment store: every segment of a corpus, tokenised once.

A directory beside the samples that refer to it:

    tokens.bin          ids of all segments, each as it is encoded behind a newline
                        (uint16 for vocabularies below 65,500, else int32)
    offsets.npy         int64 [n + 1], where each segment starts in tokens.bin, in ids
    documents.npy       int64 [n], ordinal of each segment's document
    text.jsonl          {"document": id, "text": segment}, one line a segment
    text_offsets.npy    int64 [n + 1], where each line of text.jsonl starts, in bytes
    breaks.npy          bool [n], segments that cannot be encoded apart from the line before them
    store.json          tokenizer hash, content hashes, counts, holds_newlines

``store.json`` holds the SHA-256 of ``text.jsonl`` (``content_sha256``) and, since format 2, fast
hashes (XXH3, 128 bits) of the ids, the offsets and the breaks: they find damage, not forgery.

Segments are joined by newlines. In a SentencePiece store the newline between two of them is an id
of its own, and tokens.bin holds none at their ends. In a store of byte-level BPE, where a token
may end in a newline, every segment's ids hold its final newline (``holds_newlines``), and such a
store alone has breaks.npy. See ``tokenizers.base.Tokenizer``.
"""

import hashlib
import json
import mmap
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory, read_json, sha256_of_file, write_json
from megatron_in2.tokenizers.base import Tokenizer, token_dtype

FORMAT_VERSION = 2
BLOCK = 1 << 22  # ids, or offsets, that are looked at together


class SegmentStore:
    """A segment store opened for reading; ids and offsets are memory-mapped.

    Args:
        path: the store's directory.

    Raises:
        InputError: it is no complete store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._latest_line: tuple[int, dict[str, str]] | None = None
        if not (path / "store.json").is_file():
            raise InputError(f"segment store {path} does not exist or is incomplete")
        self.manifest: dict[str, Any] = _checked_manifest(path, read_json(path / "store.json"))
        self._tokens = self._map("tokens.bin", self.manifest["dtype"])
        count = self.manifest["segments"]
        self.offsets: npt.NDArray[np.int64] = self._load("offsets.npy", count + 1)
        self.documents: npt.NDArray[np.int64] = self._load("documents.npy", count)
        text_offsets = self._load("text_offsets.npy", count + 1)
        self._text_offsets: npt.NDArray[np.int64] = text_offsets.view(np.ndarray)
        self.holds_newlines: bool = self.manifest.get("holds_newlines", False)
        self.breaks = self._load_breaks(count)
        if self.offsets[0] != 0 or self.offsets[-1] != len(self._tokens):
            raise self._damaged("offsets.npy does not fit tokens.bin")

    def _map(self, name: str, dtype: npt.DTypeLike) -> "np.memmap[Any, Any]":
        try:
            return np.memmap(self.path / name, dtype, "r")
        except (OSError, ValueError) as error:
            raise self._damaged(f"{name}: {error}") from error

    def _load(self, name: str, count: int) -> npt.NDArray[np.int64]:
        try:
            values: npt.NDArray[np.int64] = np.load(self.path / name, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(f"{name}: {error}") from error
        if values.dtype != np.int64 or values.shape != (count,):
            raise self._damaged(
                f"{name} holds {values.dtype} {values.shape}, expected int64 ({count},)"
            )
        return values

    def _load_breaks(self, count: int) -> npt.NDArray[np.bool_]:
        if not self.holds_newlines:
            return np.zeros(count, np.bool_)
        try:
            values: npt.NDArray[np.bool_] = np.load(self.path / "breaks.npy")
        except (OSError, ValueError, EOFError) as error:
            raise self._damaged(f"breaks.npy: {error}") from error
        is_whole = values.dtype == np.bool_ and values.shape == (count,)
        if not is_whole or xxhash.xxh3_128_hexdigest(values.data) != self.manifest["breaks_xxh3"]:
            raise self._damaged("breaks.npy does not have the content that store.json states")
        return values

    def _damaged(self, what: str) -> InputError:
        return InputError(f"segment store {self.path} is damaged: {what}; synthesize it again")

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def dtype(self) -> np.dtype[Any]:
        """In which the ids are stored."""
        dtype: np.dtype[Any] = np.dtype(self.manifest["dtype"])
        return dtype

    @cached_property
    def _plain_offsets(self) -> npt.NDArray[np.int64]:
        """The same memory as ``offsets``, without the cost of its class at every access."""
        return np.asarray(self.offsets).view(np.ndarray)

    @cached_property
    def _raw(self) -> memoryview:
        """The bytes of tokens.bin, memory-mapped."""
        return self._tokens.data.cast("B")

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Token count of every segment, [n]."""
        return np.diff(self._plain_offsets)

    @property
    def line_end_tokens(self) -> int:
        """Ids between two joined segments."""
        return 0 if self.holds_newlines else 1

    def expect_random_reads(self) -> None:
        """Tell the system that ids and texts are read here and there from now on.

        Else it reads up to megabytes around every page that is not in memory. The offsets are left
        out: they are used again and again, and the system first forgets what is read at random.
        """
        for mapped in (self._tokens, self._mapped_text):
            assert isinstance(mapped.base, mmap.mmap)
            mapped.base.madvise(mmap.MADV_RANDOM)

    def require_tokenizer(self, tokenizer: Tokenizer) -> None:
        """Check that the store was made with this tokenizer.

        Raises:
            InputError: it was made with another.
        """
        if self.manifest["tokenizer_sha256"] != tokenizer.sha256:
            raise InputError(
                f"segment store {self.path} was tokenised with another tokenizer than "
                f"{tokenizer.path}: pass the one it was made with, or synthesize again"
            )

    def require_sound(self, tokenizer: Tokenizer) -> dict[str, str]:
        """Check what joining relies on; reads all ids and offsets once.

        A store of format 1 states no hash of them: only the ids themselves are checked.

        Returns:
            Content hashes, by which the store is known: of its ids and offsets where the
            tokenizer joins ids exactly, else of its text, from which it then encodes.

        Raises:
            InputError: the store was made with another tokenizer, a file is not as it was
                written, or an id is no piece of a text.
        """
        if not tokenizer.joins_exactly:
            return {"content_sha256": self._require_same("text.jsonl", "content_sha256")}
        self.require_tokenizer(tokenizer)
        offsets, ids = xxhash.xxh3_128(), xxhash.xxh3_128()
        for start in range(0, len(self.offsets), BLOCK):
            block = np.ascontiguousarray(self.offsets[start : start + BLOCK + 1])
            if (np.diff(block) < 0).any():
                raise self._damaged("offsets.npy does not ascend")
            offsets.update(block[:BLOCK].data)
        ranges = _forbidden_ranges(tokenizer)
        for start, pieces in self._token_blocks():
            ids.update(pieces.data)
            self._require_pieces(pieces, start, ranges)
        found = {"tokens_xxh3": ids.hexdigest(), "offsets_xxh3": offsets.hexdigest()}
        for name, file in (("tokens_xxh3", "tokens.bin"), ("offsets_xxh3", "offsets.npy")):
            if self.manifest.get(name, found[name]) != found[name]:
                raise self._damaged(f"{file} does not have the content that store.json states")
        return found

    def _token_blocks(self) -> Iterator[tuple[int, npt.NDArray[np.integer[Any]]]]:
        """Yield (place, ids) of all ids; read from the file, whatever the mapping expects."""
        with open(self.path / "tokens.bin", "rb") as stream:
            for start in range(0, len(self._tokens), BLOCK):
                yield start, np.fromfile(stream, self.dtype, BLOCK)

    def _require_pieces(
        self, block: npt.NDArray[np.integer[Any]], start: int, ranges: list[tuple[int, int]]
    ) -> None:
        unsigned = block.view(np.dtype(f"u{block.itemsize}"))
        largest = int(np.iinfo(unsigned.dtype).max)
        for first, last in ranges:
            outside = (unsigned - unsigned.dtype.type(first)) <= min(last, largest) - first
            if outside.any():
                place = start + int(np.argmax(outside))
                segment = int(np.searchsorted(self.offsets, place, "right")) - 1
                raise InputError(
                    f"segment {segment} of store {self.path} holds id {self._tokens[place]}, "
                    "which no text has: the store is damaged or was written otherwise; "
                    "synthesize it again"
                )

    def _require_same(self, file: str, name: str) -> str:
        found = sha256_of_file(self.path / file)
        if self.manifest[name] != found:
            raise self._damaged(f"{file} does not have the content that store.json states")
        return found

    def joined_length(self, segments: npt.NDArray[np.int64]) -> int:
        """Return how many ids :meth:`join_bytes` gives."""
        ends, starts = self._plain_offsets[segments + 1], self._plain_offsets[segments]
        return int((ends - starts).sum()) + self.line_end_tokens * (len(segments) - 1)

    def join_bytes(self, segments: npt.NDArray[np.int64], line_end: Sequence[int]) -> bytes:
        """Return the ids of segments joined by newlines, as they are encoded after a newline.

        The bytes hold ids of the store's dtype. ``bytes.join`` copies the pieces and sets the
        newlines between them in one pass.

        Args:
            segments: at least one; none but the first is one of ``breaks``.
            line_end: the tokenizer's; the last segment's newline is part of the result where it
                is empty.
        """
        tokens, size = self._raw, self._tokens.itemsize
        offsets = self._plain_offsets
        starts, ends = (offsets[segments] * size).tolist(), (offsets[segments + 1] * size).tolist()
        between = np.array(line_end, self._tokens.dtype).tobytes()
        return between.join([tokens[a:b] for a, b in zip(starts, ends, strict=True)])

    def joined_ids(
        self, segments: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.integer[Any]], npt.NDArray[np.int64]]:
        """Return the ids of segments one behind the other, without anything between them.

        Args:
            segments: at least one.

        Returns:
            (ids [sum of lengths] of the store's dtype, length of each segment [segments]).
        """
        offsets = self._plain_offsets
        ids = np.frombuffer(self.join_bytes(segments, ()), self.dtype)
        return ids, offsets[segments + 1] - offsets[segments]

    def text(self, segment: int) -> str:
        """Return one segment's text."""
        return self._line(segment)["text"]

    def document_id(self, segment: int) -> str:
        """Return the id of the document that a segment is cut from."""
        return self._line(segment)["document"]

    @cached_property
    def _mapped_text(self) -> "np.memmap[Any, Any]":
        """The bytes of text.jsonl."""
        return self._map("text.jsonl", np.uint8)

    @cached_property
    def _text_bytes(self) -> npt.NDArray[np.uint8]:
        """The same memory, without the cost of its class at every access."""
        return self._mapped_text.view(np.ndarray)

    def _line(self, segment: int) -> dict[str, str]:
        latest = self._latest_line
        if latest is None or latest[0] != segment:
            start, end = self._text_offsets[segment : segment + 2].tolist()
            latest = self._latest_line = segment, json.loads(self._text_bytes[start:end].tobytes())
        return latest[1]


def _checked_manifest(path: Path, values: Any) -> dict[str, Any]:
    """Return the content of store.json.

    Raises:
        InputError: it is no object, or lacks a field.
    """
    wanted = {
        "tokenizer_sha256": str,
        "content_sha256": str,
        "dtype": str,
        "segments": int,
        "documents": int,
        "tokens": int,
    }
    if not isinstance(values, dict):
        found = type(values).__name__
        raise InputError(
            f"segment store {path}: store.json holds a {found}, not an object; synthesize it again"
        )
    for name, kind in wanted.items():
        if type(values.get(name)) is not kind:
            raise InputError(
                f"segment store {path}: store.json has {name} {values.get(name)!r:.60}, "
                f"not {kind.__name__}; synthesize it again"
            )
    if values["dtype"] not in ("uint16", "int32"):
        raise InputError(
            f"segment store {path}: store.json has dtype {values['dtype']!r:.60}, "
            "not uint16 or int32; synthesize it again"
        )
    if not 0 < values["segments"] < 2**32:
        raise InputError(f"segment store {path}: {values['segments']} segments: must be 1 to 2^32")
    return values


def _forbidden_ranges(tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Return [first, last] ranges of the 32-bit numbers that are no ids of text."""
    ranges = [(tokenizer.vocab_size, 2**32 - 1)]
    for index in sorted({*tokenizer.control_ids.values()} - {tokenizer.pad_id}):
        if ranges[-1][1] == index - 1:
            ranges[-1] = (ranges[-1][0], index)
        else:
            ranges.append((index, index))
    return ranges


def write_store(
    path: Path,
    documents: Iterable[tuple[str, Sequence[tuple[str, Sequence[int]]]]],
    tokenizer: Tokenizer,
    notes: Callable[[], dict[str, Any]] = dict,
) -> SegmentStore:
    """Write a store from (document id, [(segment text, ids), ...]); it replaces one that exists.

    Memory stays bounded: 24 bytes a segment.

    Args:
        path: the store's directory.
        documents: what it holds, read once; ids as ``tokenizer.encode_lines`` gives them.
        tokenizer: whose ids they are.
        notes: called when all documents are written: further entries of ``store.json``.

    Raises:
        InputError: the corpus held no text.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    offsets, text_offsets, ordinals = array("q", [0]), array("q", [0]), array("q")
    breaks = array("b")
    digest, ids_digest = hashlib.sha256(), xxhash.xxh3_128()
    with atomic_directory(path, replace=True) as temporary:
        with (
            open(temporary / "tokens.bin", "wb") as token_stream,
            open(temporary / "text.jsonl", "wb") as text_stream,
        ):
            count = 0
            for count, (document_id, segments) in enumerate(documents, start=1):
                for text, ids in segments:
                    line = json.dumps({"document": document_id, "text": text}, ensure_ascii=False)
                    raw = line.encode("utf-8") + b"\n"
                    digest.update(raw)
                    text_stream.write(raw)
                    raw_ids = np.array(ids, dtype).tobytes()
                    ids_digest.update(raw_ids)
                    token_stream.write(raw_ids)
                    offsets.append(offsets[-1] + len(ids))
                    text_offsets.append(text_offsets[-1] + len(raw))
                    ordinals.append(count - 1)
                    breaks.append(not tokenizer.joins_behind_newline(text))
        if not ordinals:
            raise InputError("the corpus holds no text: nothing to synthesize from")
        for name, values in (
            ("offsets", offsets),
            ("documents", ordinals),
            ("text_offsets", text_offsets),
        ):
            np.save(temporary / f"{name}.npy", np.array(values, np.int64))
        newlines: dict[str, Any] = {}
        if not tokenizer.line_end:
            marks = np.array(breaks, np.bool_)
            breaks_hash = xxhash.xxh3_128_hexdigest(marks.data)
            newlines = {"holds_newlines": True, "breaks_xxh3": breaks_hash}
            np.save(temporary / "breaks.npy", marks)
        write_json(
            temporary / "store.json",
            {
                "format_version": FORMAT_VERSION,
                "tokenizer_sha256": tokenizer.sha256,
                "content_sha256": digest.hexdigest(),
                "tokens_xxh3": ids_digest.hexdigest(),
                "offsets_xxh3": xxhash.xxh3_128_hexdigest(offsets),
                "dtype": np.dtype(dtype).name,
                "documents": count,
                "segments": len(ordinals),
                "tokens": offsets[-1],
                **newlines,
                **notes(),
            },
        )
    return SegmentStore(path)
