"""Loads a tokenizer by what ``--tokenizer-model`` and ``data.tokenizer_model`` take."""

from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.sentencepiece import SentencePieceTokenizer

MISTRAL_V1 = "mistral-v1"


def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: a SentencePiece file, a directory with ``tokenizer.model`` (as Hugging Face
            checkpoints have it), or ``mistral-v1``: the 32,000-piece model of
            Mistral-7B-Instruct-v0.2, which the package mistral-common ships.

    Raises:
        InputError: there is no usable tokenizer of that name.
    """
    if name == MISTRAL_V1:
        import mistral_common

        data = Path(mistral_common.__file__).parent / "data"
        return SentencePieceTokenizer(data / "tokenizer.model.v1")
    path = Path(name)
    if path.is_dir():
        if not (path / "tokenizer.model").is_file():
            raise InputError(f"{path} holds no tokenizer.model; name a SentencePiece file")
        path = path / "tokenizer.model"
    if not path.is_file():
        raise InputError(f"tokenizer {name} does not exist; name a file, or {MISTRAL_V1}")
    return SentencePieceTokenizer(path)
