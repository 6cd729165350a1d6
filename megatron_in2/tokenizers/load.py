"""Loads a tokenizer by what ``--tokenizer-model`` and ``data.tokenizer_model`` take."""

from pathlib import Path

from megatron_in2.errors import InputError
from megatron_in2.files import sha256_of_file
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.files import TOKENIZER_JSON, TOKENIZER_MODEL
from megatron_in2.tokenizers.huggingface import HuggingFaceTokenizer
from megatron_in2.tokenizers.sentencepiece import SentencePieceTokenizer

MISTRAL_V1 = "mistral-v1"


def load_tokenizer(name: str, sha256: str | None = None) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: a Hugging Face directory, a ``tokenizer.json``, a SentencePiece file, or
            ``mistral-v1``: the 32,000-piece model of Mistral-7B-Instruct-v0.2, which the package
            mistral-common ships.
        sha256: of the tokenizer that is wanted, where it is known: a directory that has both
            ``tokenizer.json`` and ``tokenizer.model`` gives the first, which is what users of the
            base run, unless the second is the one wanted.

    Raises:
        InputError: there is no usable tokenizer of that name.
    """
    if name == MISTRAL_V1:
        import mistral_common

        data = Path(mistral_common.__file__).parent / "data"
        return SentencePieceTokenizer(data / "tokenizer.model.v1")
    path = Path(name)
    if path.is_dir():
        path = _file_in(path, sha256)
    if not path.is_file():
        raise InputError(f"tokenizer {name} does not exist; name a directory, or {MISTRAL_V1}")
    return HuggingFaceTokenizer(path) if path.suffix == ".json" else SentencePieceTokenizer(path)


def _file_in(folder: Path, sha256: str | None) -> Path:
    found = [
        folder / name for name in (TOKENIZER_JSON, TOKENIZER_MODEL) if (folder / name).is_file()
    ]
    if not found:
        raise InputError(
            f"{folder} holds no tokenizer.model and no tokenizer.json: copy the tokenizer's files "
            "of the release there"
        )
    return next((path for path in found if sha256_of_file(path) == sha256), found[0])
