"""What the rest of the package needs of a tokenizer, whatever library is behind it."""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

UINT16_VOCABULARY = 65_500  # ids of smaller vocabularies are stored as uint16, like Megatron-LM's


def token_dtype(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """Return the dtype in which ids of such a vocabulary are stored."""
    return np.uint16 if vocab_size < UINT16_VOCABULARY else np.int32


class Tokenizer(Protocol):
    """A tokenizer: text to ids and back.

    ``encode`` adds no control ids, and text that looks like a control token (``<s>``) is encoded
    as text.
    """

    path: Path  # the file that defines it

    @property
    def sha256(self) -> str:
        """Hash of ``path``: datasets and checkpoints name their tokenizer by it."""

    @property
    def vocab_size(self) -> int:
        """Number of ids."""

    @property
    def bos_id(self) -> int:
        """Begin-of-sequence id."""

    @property
    def eos_id(self) -> int:
        """End-of-sequence id."""

    @property
    def pad_id(self) -> int:
        """The id that fills packed rows. It is never trained on and never attended to."""

    @property
    def newline_id(self) -> int:
        """The id of a newline inside text."""

    @property
    def joins_exactly(self) -> bool:
        """Whether the ids of lines, encoded one by one, equal the ids of the joined text."""

    @property
    def splits_at_spaces(self) -> bool:
        """Whether a text's ids are the ids of its words, encoded one by one."""

    @property
    def merged_pieces(self) -> list[str]:
        """The pieces that text can turn into: no control tokens and no single bytes."""

    def encode(self, text: str) -> list[int]:
        """Encode a whole text, with nothing before it."""

    def encode_continuation(self, text: str) -> list[int]:
        """Encode a text as it is encoded after a newline."""

    def encode_continuations(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts as they are encoded after a newline, on several threads."""

    def decode(self, ids: list[int] | npt.NDArray[np.integer]) -> str:
        """Decode ids to text, without control tokens."""

    def piece(self, index: int) -> str:
        """Return the readable form of one id; control tokens stay visible."""
