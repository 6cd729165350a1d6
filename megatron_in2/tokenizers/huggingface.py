"""A tokenizer of the ``tokenizers`` library: the ``tokenizer.json`` of a Hugging Face directory."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from megatron_in2.errors import InputError
from megatron_in2.files import read_json, sha256_of_file
from megatron_in2.records import Follows
from megatron_in2.tokenizers.base import Border, TextEncoder, token_dtype
from megatron_in2.tokenizers.files import (
    CONFIG,
    TOKENIZER_JSON,
    read_tokenizer_config,
    token_roles,
    tokenizer_files,
)
from megatron_in2.tokenizers.library_encoder import LibraryEncoder
from megatron_in2.tokenizers.pretoken_cache import PretokenEncoder
from megatron_in2.tokenizers.pretokens import normalises_to_nfc, rule_of_settings
from megatron_in2.tokenizers.spaces import space_rule_of_settings
from megatron_in2.tokenizers.word_cache import WordEncoder

# Put before a run of text so that the library sees it behind a control token; noncharacters,
# which no text should hold.
RESERVED_MARK = "\ufdd0\ufdd1in2\ufdd0"


def _byte_characters() -> dict[int, int]:
    """Return the character by which byte-level BPE writes each byte.

    A byte that is a visible character of Latin-1 is that character; the others follow from
    U+0100 on, in order (GPT-2's ``bytes_to_unicode``).
    """
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (byte for byte in range(0x100) if byte not in visible)
    return {byte: 0x100 + place for place, byte in enumerate(others)}


_BYTE_CHARACTERS = _byte_characters()


class HuggingFaceTokenizer:
    """A ``tokenizer.json``, encoded as its library encodes with special tokens read as text.

    Control tokens are the added tokens that the file marks as special: no text produces one.
    Other added tokens, such as Qwen 3's ``<think>``, are vocabulary like any other: text that
    holds one gets its id, as it does wherever the base is used.

    Args:
        path: the file; ``tokenizer_config.json`` beside it names the special tokens.

    Raises:
        InputError: it is no such file, or no end-of-sequence token is named.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._settings = _read_settings(path)
        self._library = _loaded(path, self._settings)
        self._roles = token_roles(path.parent)
        self._require_complete()
        self._rule = rule_of_settings(self._settings)
        self._spaces = space_rule_of_settings(self._settings)

    @property
    def files(self) -> dict[str, Path]:
        """The tokenizer's files of the directory; the file itself as ``tokenizer.json``."""
        return {**tokenizer_files(self.path.parent), TOKENIZER_JSON: self.path}

    @cached_property
    def sha256(self) -> str:
        """Hash of ``tokenizer.json``: which tokenizer this is."""
        return sha256_of_file(self.path)

    @cached_property
    def vocab_size(self) -> int:
        """The largest id and one."""
        ids: dict[str, int] = self._library.get_vocab(with_added_tokens=True)
        return max(ids.values()) + 1

    @property
    def bos_id(self) -> int | None:
        """Begin-of-sequence id; None where the files name none, as Qwen's."""
        return self._role_id("bos_token")

    @property
    def eos_id(self) -> int:
        """End-of-sequence id."""
        eos = self._role_id("eos_token")
        assert eos is not None
        return eos

    @property
    def pad_id(self) -> int:
        """What fills packed rows: never trained on nor attended to, so any id does."""
        pad = self._role_id("pad_token")
        return self.eos_id if pad is None else pad

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """The added tokens that are special, by content."""
        return {each["content"]: each["id"] for each in self._added if each["special"]}

    @property
    def line_end(self) -> tuple[int, ...]:
        """A newline where that is an id of its own; else lines hold their newlines."""
        return (self.newline_id,) if self._spaces and self._spaces.joins_lines else ()

    @property
    def joins_exactly(self) -> bool:
        """Whether the way in which texts are cut is known, and cuts behind newlines."""
        if any(_reaches_out(each) for each in self._added if not each["special"]):
            return False
        known = (self._rule, self._spaces)
        return any(rule.joins_lines for rule in known if rule is not None)

    def joins_behind_newline(self, text: str) -> bool:
        """Whether a text that follows a line's end can be encoded apart from it."""
        if not self.joins_exactly:
            return False
        return self._rule is None or self._rule.joins_behind_newline(text)

    @property
    def prompt_border(self) -> Border:
        """A newline, or a space where every run of text gets a dummy prefix as SentencePiece's."""
        if self._rule is not None:
            return "newline" if self.joins_exactly else "unknown"
        spaces = self._spaces
        is_exact = spaces is not None and spaces.splits_at_spaces and spaces.keeps_space
        return "space" if is_exact else "unknown"

    def encode(self, text: str, follows: Follows = "nothing") -> list[int]:
        """Encode a text, by itself or as the library encodes it behind something."""
        if follows == "nothing" or self._rule is not None:
            return self._ids(text)
        if follows == "control":
            return self._behind_mark(text)
        return self._ids("\n" + text)[len(self._newline_prefix) :]

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """Encode each line as it is joined, on several threads."""
        if not self.line_end:
            return self._encode_many([line + "\n" for line in lines])
        skipped = len(self._newline_prefix)
        return [ids[skipped:] for ids in self._encode_many(["\n" + line for line in lines])]

    def text_encoder(self) -> TextEncoder:
        """Return an encoder that looks up what it knows, where texts are cut by a known rule."""
        dtype = np.dtype(token_dtype(self.vocab_size))
        if self._rule is not None:
            return PretokenEncoder(
                self._rule,
                self._pretoken_ids,
                self._ids,
                self._normalised,
                self._added_in_text,
                dtype,
                self._longest,
            )
        if self._spaces is not None and self._spaces.splits_at_spaces:
            return _AddedTokensApart(WordEncoder(self), LibraryEncoder(self), self._added_in_text)
        return LibraryEncoder(self)

    def decode(self, ids: list[int] | npt.NDArray[np.integer]) -> str:
        """Decode ids to text; control ids vanish."""
        return self._library.decode([int(index) for index in ids])  # type: ignore[no-any-return]

    def piece(self, index: int) -> str:
        """Return one id as its entry in the vocabulary; empty where the vocabulary has a gap."""
        return self._library.id_to_token(int(index)) or ""

    @property
    def newline_id(self) -> int:
        """The last id of a text that is one newline."""
        return self._newline_prefix[-1]

    @property
    def merged_pieces(self) -> list[str]:
        """What text can turn into, of a vocabulary that writes ``▁`` for a space."""
        return list(self._spaces.pieces) if self._spaces else []

    def dummy_prefix(self, text: str, follows: Follows) -> str:
        """Return the space that the library puts before a text, or nothing."""
        return self._spaces.dummy_prefix(text, follows) if self._spaces else ""

    def _ids(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids  # type: ignore[no-any-return]

    def _pretoken_ids(self, pretoken: str) -> list[int]:
        """Return the ids that the library's model gives a pre-token of byte-level BPE."""
        written = pretoken.encode().decode("latin-1").translate(_BYTE_CHARACTERS)
        return [token.id for token in self._library.model.tokenize(written)]

    def _encode_many(self, texts: list[str]) -> list[list[int]]:
        encoded = self._library.encode_batch_fast(texts, add_special_tokens=False)
        return [each.ids for each in encoded]

    def _normalised(self, text: str) -> str:
        if not normalises_to_nfc(self._settings):
            return text
        return self._library.normalizer.normalize_str(text)  # type: ignore[no-any-return]

    def _behind_mark(self, text: str) -> list[int]:
        if RESERVED_MARK in text:
            raise InputError(
                f"a text holds {RESERVED_MARK!r}, which is reserved for a control token's place: "
                "remove these characters"
            )
        ids: list[int] = self._marked.encode(RESERVED_MARK + text, add_special_tokens=False).ids
        return ids[1:]

    @cached_property
    def _marked(self) -> Any:
        """The library's tokenizer with one more added token, the mark."""
        library = _loaded(self.path, self._settings)
        library.add_tokens([tokenizers.AddedToken(RESERVED_MARK, normalized=False)])
        return library

    @cached_property
    def _newline_prefix(self) -> list[int]:
        return self._ids("\n")

    @cached_property
    def _longest(self) -> int:
        """Characters that a token of byte-level BPE holds at most; 0 where NFC makes texts shorter.

        A token has one character for each byte, and the text at most as many.
        """
        if normalises_to_nfc(self._settings):
            return 0
        return max(map(len, self._library.get_vocab(with_added_tokens=True)))

    @property
    def _added(self) -> Sequence[dict[str, Any]]:
        added: list[dict[str, Any]] = self._settings.get("added_tokens", [])
        return added

    @cached_property
    def _added_in_text(self) -> re.Pattern[str] | None:
        """Matches the added tokens that text can produce."""
        contents = [each["content"] for each in self._added if not each["special"]]
        return re.compile("|".join(map(re.escape, contents))) if contents else None

    def _role_id(self, role: str) -> int | None:
        token = self._roles.get(role)
        return None if token is None else self._library.token_to_id(token)

    def _require_complete(self) -> None:
        if self._role_id("eos_token") is None:
            raise InputError(
                f"{self.path.parent}: {CONFIG} names no eos_token that {self.path.name} holds: "
                "copy both files of one release there"
            )
        for token, index in self.control_ids.items():
            if index in self._ids(token):
                raise InputError(
                    f"{self.path}: a text that holds {token!r} gets the id of that control token: "
                    "save the tokenizer again with transformers"
                )
        stated = read_tokenizer_config(self.path.parent).get("added_tokens_decoder", {})
        for index, token in stated.items():
            if self._library.token_to_id(token["content"]) != int(index):
                raise InputError(
                    f"{self.path.parent}: {CONFIG} adds {token['content']!r} as id {index}, which "
                    f"{self.path.name} lacks: save the tokenizer again with transformers"
                )


class _AddedTokensApart:
    """Leaves texts that hold an added token to the library."""

    def __init__(
        self, encoder: WordEncoder, library: LibraryEncoder, added: re.Pattern[str] | None
    ) -> None:
        self.dtype = encoder.dtype
        self._encoder = encoder
        self._library = library
        self._added = added

    def encode(self, text: str, follows: Follows = "nothing") -> bytes:
        """Encode a text, by itself or behind something."""
        if self._added is not None and self._added.search(text):
            return self._library.encode(text, follows)
        return self._encoder.encode(text, follows)

    def least_tokens(self, characters: int) -> int:
        """Return how many tokens a text of so many characters has at least; 0 if not known."""
        return self._encoder.least_tokens(characters) if self._added is None else 0


def _read_settings(path: Path) -> dict[str, Any]:
    settings = read_json(path)
    if not isinstance(settings, dict) or "model" not in settings:
        raise InputError(f"{path} is not a tokenizer.json of the tokenizers library")
    return settings


def _loaded(path: Path, settings: dict[str, Any]) -> Any:
    """Load the library's tokenizer: whole texts, special tokens read as text."""
    try:
        library = tokenizers.Tokenizer.from_str(json.dumps(settings))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path} is not readable by the tokenizers library: {error}") from error
    library.no_truncation()
    library.no_padding()
    library.encode_special_tokens = True
    return library


def _reaches_out(token: dict[str, Any]) -> bool:
    """Whether an added token can take white space around it, or hold a newline."""
    return bool(token.get("lstrip") or token.get("rstrip") or "\n" in token["content"])
