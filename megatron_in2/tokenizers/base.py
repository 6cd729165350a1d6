"""What the rest of the package needs of a tokenizer, whatever library is behind it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from megatron_in2.records import BEGIN_OF_SEQUENCE, END_OF_SEQUENCE, Follows

UINT16_VOCABULARY = 65_500  # ids of smaller vocabularies are stored as uint16, like Megatron-LM's


# Two texts that are encoded apart have the ids of one text if a space is put between them, which
# is the second's dummy prefix (SentencePiece's models); or if the first ends in a newline
# (byte-level BPE); or nothing is proven.
Border = Literal["space", "newline", "unknown"]


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """Return the dtype in which ids of such a vocabulary are stored."""
    return np.uint16 if vocab_size < UINT16_VOCABULARY else np.int32


def control_id(tokenizer: "Tokenizer", token: str) -> int | None:
    """Return the id of a control token by its name or its role.

    Returns:
        The id; None for a begin-of-sequence token that the tokenizer does not have.

    Raises:
        KeyError: no control token of this name.
    """
    if token == BEGIN_OF_SEQUENCE:
        return tokenizer.bos_id
    return tokenizer.eos_id if token == END_OF_SEQUENCE else tokenizer.control_ids[token]


class TextEncoder(Protocol):
    """Encodes texts to bytes of ids, exactly as its tokenizer does, by looking up what it knows."""

    dtype: np.dtype[Any]

    def encode(self, text: str, follows: Follows = "nothing") -> bytes:
        """Return the ids of a text as bytes of ``dtype``."""

    def least_tokens(self, characters: int) -> int:
        """Return how many tokens a text of so many characters has at least; 0 if not known."""


class Tokenizer(Protocol):
    r"""A tokenizer: text to ids and back.

    ``encode`` adds no control ids, and text that looks like a control token (``<s>``) is encoded
    as text.

    Lines are encoded one by one and then joined in id space: the ids of each line
    (:meth:`encode_lines`), ``line_end`` between two of them. In SentencePiece's models a newline
    is an id of its own between the lines. In byte-level BPE a line's last token may hold its
    newline (``.\n``), so each line is encoded with its final newline and nothing comes between.
    """

    path: Path  # the file that defines it

    @property
    def files(self) -> Mapping[str, Path]:
        """All files of this tokenizer, by name: what a checkpoint and an export carry."""

    @property
    def sha256(self) -> str:
        """Hash of ``path``: datasets and checkpoints name their tokenizer by it."""

    @property
    def vocab_size(self) -> int:
        """Number of ids: all are below it."""

    @property
    def bos_id(self) -> int | None:
        """Begin-of-sequence id; None where the tokenizer has none."""

    @property
    def eos_id(self) -> int:
        """End-of-sequence id."""

    @property
    def pad_id(self) -> int:
        """The id that fills packed rows. It is never trained on and never attended to."""

    @property
    def control_ids(self) -> Mapping[str, int]:
        """Ids that no text can produce, by their names (``<s>``, ``<|eot_id|>``)."""

    @property
    def line_end(self) -> tuple[int, ...]:
        """Ids between two joined lines; empty where a line's ids hold its newline."""

    @property
    def joins_exactly(self) -> bool:
        """Whether it is proven that joined ids equal the ids of the joined text.

        Lines that :meth:`joins_behind_newline` refuses are left out.
        """

    def joins_behind_newline(self, text: str) -> bool:
        """Whether a text that follows a line's end can be encoded apart from it."""

    @property
    def prompt_border(self) -> Border:
        """Where a prompt and an answer that are encoded apart have the ids of the whole text."""

    def encode(self, text: str, follows: Follows = "nothing") -> list[int]:
        """Encode a text, by itself or as it is encoded behind something."""

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """Encode each line as it is joined, on several threads."""

    def text_encoder(self) -> TextEncoder:
        """Return a fast encoder; its dictionaries grow, so it belongs to one process."""

    def decode(self, ids: list[int] | npt.NDArray[np.integer]) -> str:
        """Decode ids to text, without control tokens."""

    def piece(self, index: int) -> str:
        """Return the readable form of one id; control tokens stay visible."""
