"""Encoding by the tokenizer's own library, where nothing is proven about its pieces."""

from typing import Any

import numpy as np

from megatron_in2.records import Follows
from megatron_in2.tokenizers.base import Tokenizer, token_dtype


class LibraryEncoder:
    """Encodes whole texts: as exact as the library, and as slow.

    Args:
        tokenizer: any tokenizer.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.dtype: np.dtype[Any] = np.dtype(token_dtype(tokenizer.vocab_size))

    def encode(self, text: str, follows: Follows = "nothing") -> bytes:
        """Encode a text, by itself or behind something."""
        return np.array(self._tokenizer.encode(text, follows), self.dtype).tobytes()

    def least_tokens(self, characters: int) -> int:
        """Return 0: nothing is known about the pieces."""
        return 0
