"""The tokenizer files of an export, which give the very ids that were trained.

transformers rebuilds a Llama tokenizer from ``tokenizer.model`` with rules of its own and renders
``<s>[INST]`` without the ``▁`` that SentencePiece, and so the training data, puts before ``[``.
The ``tokenizer.json`` written here says exactly what SentencePiece does: a dummy prefix before
each run of text between control pieces. The chat template is that of the training's template.
"""

import shutil
from pathlib import Path

import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import AddedToken, decoders, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from megatron_in2.files import write_json
from megatron_in2.templates.base import Template
from megatron_in2.templates.film import FILM
from megatron_in2.templates.own import OwnTemplate
from megatron_in2.tokenizers.base import Tokenizer
from megatron_in2.tokenizers.files import (
    CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    write_chat_template,
)
from megatron_in2.tokenizers.huggingface import HuggingFaceTokenizer


def write_tokenizer_files(
    folder: Path, tokenizer: Tokenizer, template: Template | None, max_tokens: int
) -> None:
    """Write the tokenizer's files of an export.

    Files of a base's directory are copied byte for byte; a chat template of training's takes the
    place of theirs where it differs. A SentencePiece file gets a ``tokenizer.json`` and a
    ``tokenizer_config.json`` with the same ids; one that is not BPE is written alone, since
    ``tokenizers`` has no exact twin for it.

    Args:
        folder: where they are written.
        tokenizer: the step's.
        template: what the step was trained with; None for one that was not trained.
        max_tokens: the longest input of the model.
    """
    of_a_base = isinstance(tokenizer, HuggingFaceTokenizer) or CONFIG in tokenizer.files
    if isinstance(tokenizer, HuggingFaceTokenizer) or (template is None and of_a_base):
        for name, path in tokenizer.files.items():
            shutil.copyfile(path, folder / name)
        if template is not None:
            write_chat_template(folder, template.chat_template(tokenizer))
        return
    _write_twin(folder, tokenizer, template or FILM, max_tokens)


def _write_twin(folder: Path, tokenizer: Tokenizer, template: Template, max_tokens: int) -> None:
    shutil.copyfile(tokenizer.path, folder / TOKENIZER_MODEL)
    model = sentencepiece_model.ModelProto()
    model.ParseFromString(tokenizer.path.read_bytes())
    if model.trainer_spec.model_type != sentencepiece_model.TrainerSpec.BPE:
        return
    fast = _fast_tokenizer(model, tokenizer)
    if isinstance(template, OwnTemplate):
        _write_runs_as_templates_do(fast, tokenizer)
    fast.save(str(folder / TOKENIZER_JSON))
    assert tokenizer.bos_id is not None  # SentencePiece models have one
    write_json(
        folder / CONFIG,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokenizer.piece(tokenizer.bos_id),
            "eos_token": tokenizer.piece(tokenizer.eos_id),
            "unk_token": tokenizer.piece(tokenizer.pad_id),
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_tokens,
            "chat_template": template.chat_template(tokenizer),
        },
    )


def _fast_tokenizer(model: "sentencepiece_model.ModelProto", tokenizer: Tokenizer) -> FastTokenizer:
    pieces = [piece.piece for piece in model.pieces]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    unknown = tokenizer.piece(tokenizer.pad_id)
    fast = FastTokenizer(
        BPE(
            vocab=vocabulary,
            merges=_merges(model, vocabulary),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fast.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fast.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    assert tokenizer.bos_id is not None
    begin = tokenizer.piece(tokenizer.bos_id)
    fast.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B",
        special_tokens=[(begin, tokenizer.bos_id)],
    )
    control = (unknown, begin, tokenizer.piece(tokenizer.eos_id))
    fast.add_special_tokens([AddedToken(piece, normalized=False) for piece in control])
    return fast


def _write_runs_as_templates_do(fast: FastTokenizer, tokenizer: Tokenizer) -> None:
    """Take all control pieces for control tokens; a space begins a run once, whoever wrote it."""
    fast.normalizer = None
    fast.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=False)
    fast.add_special_tokens(
        [AddedToken(piece, normalized=False) for piece in tokenizer.control_ids]
    )


def _merges(
    model: "sentencepiece_model.ModelProto", vocabulary: dict[str, int]
) -> list[tuple[str, str]]:
    """Recover the merges: every split of a piece in two pieces, best score of the result first."""
    merges: list[tuple[float, tuple[str, str]]] = []
    for piece in model.pieces:
        if piece.type != sentencepiece_model.ModelProto.SentencePiece.NORMAL:
            continue
        text = piece.piece
        splits = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        known = [pair for pair in splits if pair[0] in vocabulary and pair[1] in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        merges.extend((piece.score, pair) for pair in known)
    merges.sort(key=lambda merge: -merge[0])
    return [pair for _, pair in merges]
