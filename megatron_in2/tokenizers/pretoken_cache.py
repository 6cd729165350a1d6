"""Encoding by pre-tokens that were encoded before: exact, and faster than the library's cutting."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from megatron_in2.records import Follows
from megatron_in2.tokenizers.cutter import PretokenCutter
from megatron_in2.tokenizers.dictionary import MAX_CHARACTERS, Dictionary
from megatron_in2.tokenizers.pretokens import PretokenRule


class PretokenEncoder:
    """Encodes texts of byte-level BPE to the bytes of their ids.

    Args:
        rule: how the tokenizer cuts texts.
        encode_pretoken: the ids that the library's model gives one pre-token.
        encode_text: the library's ids of a whole text.
        normalise: what the library does to a text before it is cut, exactly; it leaves ASCII
            text as it is.
        added: matches the tokens that the library takes out of a text before it cuts it; a text
            that holds one is left to the library. None where there are none.
        dtype: of the ids.
        longest: characters that a token holds at most; 0: not known.
        max_characters: bound of the dictionary.
    """

    def __init__(
        self,
        rule: PretokenRule,
        encode_pretoken: Callable[[str], list[int]],
        encode_text: Callable[[str], list[int]],
        normalise: Callable[[str], str],
        added: re.Pattern[str] | None,
        dtype: np.dtype[Any],
        longest: int = 0,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self.dtype = dtype
        self._cutter = PretokenCutter(rule)
        self._encode_pretoken = encode_pretoken
        self._encode_text = encode_text
        self._normalise = normalise
        self._added = added
        self._longest = longest
        self._pretokens = Dictionary(self._encode_new, max_characters)

    def encode(self, text: str, follows: Follows = "nothing") -> bytes:
        """Encode a text; what precedes it makes no difference."""
        normal = text if text.isascii() else self._normalise(text)
        if self._added is not None and any(map(self._added.search, {text, normal})):
            return self._bytes(self._encode_text(text))
        return self._pretokens.encode(self._cutter.cut(normal))

    def least_tokens(self, characters: int) -> int:
        """Return how many tokens a text of so many characters has at least; 0 if not known."""
        return characters // self._longest if self._longest else 0

    def _encode_new(self, pretokens: list[str]) -> list[bytes]:
        return [self._bytes(self._encode_pretoken(each)) for each in pretokens]

    def _bytes(self, ids: list[int]) -> bytes:
        return np.array(ids, self.dtype).tobytes()
