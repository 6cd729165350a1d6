"""The segment store: every segment of a corpus, tokenised once.

A directory beside the samples that refer to it:

    tokens.bin          ids of all segments, each as a continuation behind a newline
                        (uint16 for vocabularies below 65,500, else int32)
    offsets.npy         int64 [n + 1], where each segment starts in tokens.bin, in ids
    documents.npy       int64 [n], ordinal of each segment's document
    text.jsonl          {"document": id, "text": segment}, one line a segment
    text_offsets.npy    int64 [n + 1], where each line of text.jsonl starts, in bytes
    store.json          tokenizer hash, content hash, counts
"""

import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_directory, read_json, write_json
from megatron_in2.tokenizers.base import Tokenizer, token_dtype

FORMAT_VERSION = 1


class SegmentStore:
    """A segment store opened for reading; ids and offsets are memory-mapped.

    Args:
        path: the store's directory.

    Raises:
        InputError: it is no complete store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not (path / "store.json").is_file():
            raise InputError(f"segment store {path} does not exist or is incomplete")
        self.manifest: dict[str, Any] = read_json(path / "store.json")
        try:
            self._tokens = np.memmap(path / "tokens.bin", self.manifest["dtype"], "r")
            self.offsets: npt.NDArray[np.int64] = np.load(path / "offsets.npy", mmap_mode="r")
            self.documents: npt.NDArray[np.int64] = np.load(path / "documents.npy", mmap_mode="r")
            self._text_offsets = np.load(path / "text_offsets.npy", mmap_mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"segment store {path} is damaged: {error}") from error
        if len(self._tokens) != self.offsets[-1]:
            raise InputError(f"segment store {path} is damaged: tokens.bin has a wrong size")

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
        return np.diff(self.offsets)

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

    def joined_length(self, segments: npt.NDArray[np.int64]) -> int:
        """Return how many ids :meth:`join_bytes` gives."""
        return int(self.lengths[segments].sum()) + len(segments) - 1

    def join_bytes(self, segments: npt.NDArray[np.int64], newline_id: int) -> bytes:
        """Return the ids of segments joined by newlines, as they are encoded after a newline.

        The bytes hold ids of the store's dtype. ``bytes.join`` copies the pieces and sets the
        newlines between them in one pass.
        """
        tokens, size = self._raw, self._tokens.itemsize
        offsets = self._plain_offsets
        starts, ends = (offsets[segments] * size).tolist(), (offsets[segments + 1] * size).tolist()
        newline = np.array(newline_id, self._tokens.dtype).tobytes()
        return newline.join([tokens[a:b] for a, b in zip(starts, ends, strict=True)])

    def join(self, segments: Sequence[int], newline_id: int) -> npt.NDArray[np.int32]:
        """Return what :meth:`join_bytes` does, as int32 ids."""
        raw = self.join_bytes(np.array(segments, np.int64), newline_id)
        return np.frombuffer(raw, self._tokens.dtype).astype(np.int32)

    def text(self, segment: int) -> str:
        """Return one segment's text."""
        return self._line(segment)["text"]

    def document_id(self, segment: int) -> str:
        """Return the id of the document that a segment is cut from."""
        return self._line(segment)["document"]

    def _line(self, segment: int) -> dict[str, str]:
        with open(self.path / "text.jsonl", "rb") as stream:
            stream.seek(int(self._text_offsets[segment]))
            line: dict[str, str] = json.loads(stream.readline())
            return line


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
        documents: what it holds, read once.
        tokenizer: whose ids they are.
        notes: called when all documents are written: further entries of ``store.json``.

    Raises:
        InputError: the corpus held no text.
    """
    dtype = token_dtype(tokenizer.vocab_size)
    offsets, text_offsets, ordinals = array("q", [0]), array("q", [0]), array("q")
    digest = hashlib.sha256()
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
                    token_stream.write(np.array(ids, dtype).tobytes())
                    offsets.append(offsets[-1] + len(ids))
                    text_offsets.append(text_offsets[-1] + len(raw))
                    ordinals.append(count - 1)
        if not ordinals:
            raise InputError("the corpus holds no text: nothing to synthesize from")
        for name, values in (
            ("offsets", offsets),
            ("documents", ordinals),
            ("text_offsets", text_offsets),
        ):
            np.save(temporary / f"{name}.npy", np.array(values, np.int64))
        write_json(
            temporary / "store.json",
            {
                "format_version": FORMAT_VERSION,
                "tokenizer_sha256": tokenizer.sha256,
                "content_sha256": digest.hexdigest(),
                "dtype": np.dtype(dtype).name,
                "documents": count,
                "segments": len(ordinals),
                "tokens": offsets[-1],
                **notes(),
            },
        )
    return SegmentStore(path)
