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

SPACE = "▁"  # what SentencePiece writes for a space; the character itself encodes like a space


class SentencePieceTokenizer:
    """A SentencePiece model.

    Each call of :meth:`encode` adds SentencePiece's own dummy prefix and no control ids; text
    that looks like ``<s>`` or ``</s>`` is encoded as text.

    Args:
        path: the SentencePiece model file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._model = sentencepiece.SentencePieceProcessor()
        try:
            self._model.Load(str(path))
        except (OSError, RuntimeError) as error:
            raise InputError(f"{path} is not a SentencePiece model") from error
        if self.bos_id < 0 or self.eos_id < 0:
            raise InputError(f"{path} has no begin- or end-of-sequence piece")
        # What "\n" encodes to, the dummy prefix included: every continuation starts behind it.
        self._newline_prefix: list[int] = self._model.Encode("\n")

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

    @property
    def newline_id(self) -> int:
        """The id of a newline inside text."""
        return self._newline_prefix[-1]

    @cached_property
    def joins_exactly(self) -> bool:
        """Whether ids of pieces joined by newlines equal the ids of the joined text.

        True where a newline is a piece of its own and no other piece holds one: no merge then
        reaches across it (true for the Mistral and Llama models).
        """
        if len(self._newline_prefix) != 2:
            return False
        return not any("\n" in piece and piece != "\n" for piece in self.merged_pieces)

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

    @cached_property
    def merged_pieces(self) -> list[str]:
        """The pieces that text can turn into: not control ids, <unk> and single bytes."""
        kinds = sentencepiece_model.ModelProto.SentencePiece
        textual = (kinds.NORMAL, kinds.USER_DEFINED)
        return [piece.piece for piece in self._proto.pieces if piece.type in textual]

    @cached_property
    def _proto(self) -> Any:
        """The model file as it is stored."""
        model = sentencepiece_model.ModelProto()
        model.ParseFromString(self.path.read_bytes())
        return model

    def encode(self, text: str) -> list[int]:
        """Encode a text by itself."""
        return self._model.Encode(text)  # type: ignore[no-any-return]

    def encode_continuation(self, text: str) -> list[int]:
        """Encode a text as it would be encoded behind a newline."""
        return self._model.Encode("\n" + text)[len(self._newline_prefix) :]  # type: ignore[no-any-return]

    def encode_continuations(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts behind a newline, on several threads."""
        skipped = len(self._newline_prefix)
        encoded = self._model.Encode(["\n" + text for text in texts], num_threads=-1)
        return [ids[skipped:] for ids in encoded]

    def decode(self, ids: list[int] | npt.NDArray[np.integer]) -> str:
        """Decode ids to text; control ids vanish."""
        return self._model.Decode([int(index) for index in ids])  # type: ignore[no-any-return]

    def piece(self, index: int) -> str:
        """Return one id as its readable piece: control ids and ``▁`` stay visible."""
        return self._model.IdToPiece(int(index))  # type: ignore[no-any-return]
