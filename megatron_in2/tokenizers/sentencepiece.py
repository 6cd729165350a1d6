"""The SentencePiece tokenizer, and when the ids of its texts can be joined exactly."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sentencepiece
import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model

from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_file
from megatron_in2.records import Follows
from megatron_in2.tokenizers.base import Border, TextEncoder
from megatron_in2.tokenizers.files import TOKENIZER_MODEL, tokenizer_files
from megatron_in2.tokenizers.library_encoder import LibraryEncoder
from megatron_in2.tokenizers.word_cache import SPACE, WordEncoder

_KINDS = sentencepiece_model.ModelProto.SentencePiece


class SentencePieceTokenizer:
    """A SentencePiece model.

    A text that is encoded by itself gets SentencePiece's own dummy prefix; one that goes on behind
    text does not. Behind a control token it does unless it begins with a space, which a chat
    template may write for it: so ``[INST]`` is followed by the same ids with and without that
    space, those of mistral-common. No call adds control ids; text that looks like ``<s>`` or
    ``</s>`` is encoded as text.

    Args:
        path: the SentencePiece model file; files of the tokenizer beside a ``tokenizer.model``
            belong to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path} is not a SentencePiece model") from error
        if self._model.bos_id() < 0 or self.eos_id < 0:
            raise InputError(f"{path} has no begin- or end-of-sequence piece")
        # What "\n" encodes to, the dummy prefix included: every continuation comes behind it.
        self._newline_prefix: list[int] = self._model.Encode("\n")

    @property
    def files(self) -> dict[str, Path]:
        """The model as ``tokenizer.model``, and what is beside a file of that name."""
        beside = tokenizer_files(self.path.parent) if self.path.name == TOKENIZER_MODEL else {}
        return {**beside, TOKENIZER_MODEL: self.path}

    @cached_property
    def sha256(self) -> str:
        """Hash of the model file: which tokenizer this is."""
        return sha256_of_file(self.path)

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return int(self._model.GetPieceSize())

    @property
    def bos_id(self) -> int:
        """Begin-of-sequence id."""
        return int(self._model.bos_id())

    @property
    def eos_id(self) -> int:
        """End-of-sequence id."""
        return int(self._model.eos_id())

    @property
    def pad_id(self) -> int:
        """Fills packed rows. Never trained on or attended to, so any id works; here <unk>."""
        return max(int(self._model.unk_id()), 0)

    @cached_property
    def control_ids(self) -> dict[str, int]:
        """The model's control pieces and <unk>."""
        control = (_KINDS.CONTROL, _KINDS.UNKNOWN)
        pieces = enumerate(self._proto.pieces)
        return {piece.piece: index for index, piece in pieces if piece.type in control}

    @property
    def newline_id(self) -> int:
        """The id of a newline inside text."""
        return self._newline_prefix[-1]

    @property
    def line_end(self) -> tuple[int, ...]:
        """A newline, which is an id of its own; nothing where the model drops newlines."""
        return tuple(self._newline_prefix[-1:])

    @cached_property
    def joins_exactly(self) -> bool:
        """Whether ids of pieces joined by newlines equal the ids of the joined text.

        True where a newline is a piece of its own and no other piece holds one: no merge then
        reaches across it (true for the Mistral and Llama models).
        """
        if len(self._newline_prefix) != 2:
            return False
        return not any("\n" in piece and piece != "\n" for piece in self.merged_pieces)

    def joins_behind_newline(self, text: str) -> bool:
        """Whether a text can be encoded apart from the line before it: any can, or none."""
        return self.joins_exactly

    @cached_property
    def splits_at_spaces(self) -> bool:
        """Whether a text's ids are the ids of its words, each encoded by itself.

        True where text is taken as it is (no normalisation, a space stays a space), merging is
        BPE, a newline is on its own, and no piece holds a space behind another character: no
        merge then reaches across the start of a word (true for the Mistral and Llama models).
        """
        normalizer, trainer = self._proto.normalizer_spec, self._proto.trainer_spec
        return (
            self.joins_exactly
            and not normalizer.precompiled_charsmap
            and normalizer.add_dummy_prefix
            and normalizer.escape_whitespaces
            and not normalizer.remove_extra_whitespaces
            and trainer.model_type == sentencepiece_model.TrainerSpec.BPE
            and trainer.byte_fallback
            and not trainer.treat_whitespace_as_suffix
            and not any(SPACE in piece.lstrip(SPACE) for piece in self.merged_pieces)
        )

    @property
    def prompt_border(self) -> Border:
        """A space, where words can be encoded apart."""
        return "space" if self.splits_at_spaces else "unknown"

    @cached_property
    def merged_pieces(self) -> list[str]:
        """The pieces that text can turn into: not control ids, <unk> and single bytes."""
        textual = (_KINDS.NORMAL, _KINDS.USER_DEFINED)
        return [piece.piece for piece in self._proto.pieces if piece.type in textual]

    @cached_property
    def _proto(self) -> Any:
        """The model file as it is stored."""
        model = sentencepiece_model.ModelProto()
        model.ParseFromString(self.path.read_bytes())
        return model

    def dummy_prefix(self, text: str, follows: Follows) -> str:
        """Return the space that SentencePiece puts before a text."""
        if follows == "control":
            return "" if text.startswith((" ", SPACE)) else " "
        return " " if follows == "nothing" else ""

    def encode(self, text: str, follows: Follows = "nothing") -> list[int]:
        """Encode a text, by itself or as it is encoded behind text or a control token."""
        if follows == "nothing" or (text and self.dummy_prefix(text, follows)):
            return self._model.Encode(text)  # type: ignore[no-any-return]
        return self._model.Encode("\n" + text)[len(self._newline_prefix) :]  # type: ignore[no-any-return]

    def encode_lines(self, lines: list[str]) -> list[list[int]]:
        """Encode many lines behind a newline, their own newline left out, on several threads."""
        skipped = len(self._newline_prefix)
        encoded = self._model.Encode(["\n" + line for line in lines], num_threads=-1)
        return [ids[skipped:] for ids in encoded]

    def text_encoder(self) -> TextEncoder:
        """Return an encoder that looks words up, where words can be encoded apart."""
        return WordEncoder(self) if self.splits_at_spaces else LibraryEncoder(self)

    def decode(self, ids: list[int] | npt.NDArray[np.integer]) -> str:
        """Decode ids to text; control ids vanish."""
        return self._model.Decode([int(index) for index in ids])  # type: ignore[no-any-return]

    def piece(self, index: int) -> str:
        """Return one id as its readable piece: control ids and ``▁`` stay visible."""
        return self._model.IdToPiece(int(index))  # type: ignore[no-any-return]
