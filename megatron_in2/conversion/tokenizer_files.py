"""The tokenizer files of an export, which give the very ids that were trained.

transformers rebuilds a Llama tokenizer from ``tokenizer.model`` with rules of its own and renders
``<s>[INST]`` without the ``▁`` that SentencePiece, and so the training data, puts before ``[``.
The ``tokenizer.json`` written here says exactly what SentencePiece does: a dummy prefix before
each run of text between control pieces. The chat template is that of the training's template.
"""

import shutil
from pathlib import Path

import sentencepiece.sentencepiece_model_pb2 as sentencepiece_model
from tokenizers import AddedToken, decoders, normalizers, processors
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.models import BPE

from megatron_in2.files import write_json
from megatron_in2.templates.base import InstructionTemplate
from megatron_in2.templates.chat_template import chat_template
from megatron_in2.tokenizers.base import Tokenizer


def write_tokenizer_files(
    folder: Path, tokenizer: Tokenizer, template: InstructionTemplate, max_tokens: int
) -> None:
    """Write ``tokenizer.model``, ``tokenizer.json`` and ``tokenizer_config.json``.

    A SentencePiece model that is not BPE gets ``tokenizer.model`` alone: ``tokenizers`` has no
    exact twin for it.
    """
    shutil.copyfile(tokenizer.path, folder / "tokenizer.model")
    model = sentencepiece_model.ModelProto()
    model.ParseFromString(tokenizer.path.read_bytes())
    if model.trainer_spec.model_type != sentencepiece_model.TrainerSpec.BPE:
        return
    _fast_tokenizer(model, tokenizer).save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": tokenizer.piece(tokenizer.bos_id),
            "eos_token": tokenizer.piece(tokenizer.eos_id),
            "unk_token": tokenizer.piece(tokenizer.pad_id),
            "clean_up_tokenization_spaces": False,
            "model_max_length": max_tokens,
            "chat_template": chat_template(template),
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
    begin = tokenizer.piece(tokenizer.bos_id)
    fast.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A",
        pair=f"{begin} $A {begin} $B",
        special_tokens=[(begin, tokenizer.bos_id)],
    )
    control = (unknown, begin, tokenizer.piece(tokenizer.eos_id))
    fast.add_special_tokens([AddedToken(piece, normalized=False) for piece in control])
    return fast


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
