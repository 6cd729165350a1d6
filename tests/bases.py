"""Tokenizers of today's bases, made here: published rules, vocabularies of our own or Mistral's.

No vocabulary of Llama or Qwen can be had without the hub. Small byte-level BPE models with their
published pre-tokenizers, special tokens and settings stand in for them; Mistral's real ones come
with the package mistral-common.
"""

import base64
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import mistral_common
from mistral_common.tokens.tokenizers.tekken import Tekkenizer
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE

from tests import chat_templates

MISTRAL = Path(mistral_common.__file__).parent / "data"
# SentencePiece models of mistral-common's versions, and how bases with them write conversations.
VERSIONS = {
    "v1": (MISTRAL / "tokenizer.model.v1", chat_templates.MISTRAL_V1),
    "v2": (MISTRAL / "mistral_instruct_tokenizer_240216.model.v2", chat_templates.MISTRAL_V3),
    "v3": (MISTRAL / "mistral_instruct_tokenizer_240323.model.v3", chat_templates.MISTRAL_V3),
    "v7": (MISTRAL / "mistral_instruct_tokenizer_241114.model.v7", chat_templates.MISTRAL_V7),
}
TEKKEN = MISTRAL / "tekken_240718.json"

LLAMA_3_RULE = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_RULE = LLAMA_3_RULE.replace(r"\p{N}{1,3}", r"\p{N}")
LLAMA_3_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|finetune_right_pad_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
QWEN_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>")
QWEN_WORDS = ("<tool_call>", "</tool_call>", "<think>", "</think>")  # added, but not special


def byte_level(rule: str, texts: Iterable[str], size: int, nfc: bool = False) -> Tokenizer:
    """Train byte-level BPE as Llama 3's and Qwen's tokenizer.json have it."""
    tokenizer = Tokenizer(BPE(ignore_merges="1,3" in rule))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(rule), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(alphabet), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def write_base(folder: Path, tokenizer: Tokenizer, config: dict[str, object]) -> Path:
    """Write a tokenizer's directory as Hugging Face has it."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def write_llama3(folder: Path, texts: Iterable[str], size: int = 1000) -> Path:
    tokenizer = byte_level(LLAMA_3_RULE, texts, size)
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in LLAMA_3_TOKENS])
    return write_base(
        folder, tokenizer, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    )


def write_qwen(folder: Path, texts: Iterable[str], size: int = 1000) -> Path:
    """Qwen 2.5 and 3: no begin-of-sequence, NFC, and words that are added but not special."""
    tokenizer = byte_level(QWEN_RULE, texts, size, nfc=True)
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in QWEN_TOKENS])
    tokenizer.add_tokens([AddedToken(each, normalized=False) for each in QWEN_WORDS])
    names = {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return write_base(folder, tokenizer, {**names, "add_bos_token": False})


def write_own_template(base: Path, folder: Path, source: str) -> Path:
    """Write a copy of a base's directory with a chat template."""
    shutil.copytree(base, folder, dirs_exist_ok=True)
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return folder


def write_mistral(folder: Path, model: Path, source: str) -> Path:
    """Write a directory that has a SentencePiece model, names of tokens and a chat template."""
    folder.mkdir(parents=True)
    shutil.copyfile(model, folder / "tokenizer.model")
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "LlamaTokenizer", "chat_template": source, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_tekken(folder: Path) -> Path:
    """Mistral-Nemo's tokenizer.json, converted from the real Tekken: 131,072 ids."""
    raw = json.loads(TEKKEN.read_text(encoding="utf-8"))
    config = raw["config"]
    special = config["default_num_special_tokens"]
    count = config["default_vocab_size"] - special
    ranks = {base64.b64decode(each["token_bytes"]): each["rank"] for each in raw["vocab"][:count]}
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(0x100) if byte not in visible]
    written = {byte: chr(byte if byte in visible else 0x100 + others.index(byte))
               for byte in range(0x100)}  # fmt: skip
    text = {token: "".join(written[byte] for byte in token) for token in ranks}
    merges = [
        (rank, ranks[token[:cut]], ranks[token[cut:]], text[token[:cut]], text[token[cut:]])
        for token, rank in ranks.items()
        for cut in range(1, len(token))
        if token[:cut] in ranks and token[cut:] in ranks
    ]
    vocabulary = {text[token]: rank + special for token, rank in ranks.items()}
    control = [each["token_str"] for each in Tekkenizer.DEPRECATED_SPECIAL_TOKENS]
    control += [f"<SPECIAL_{index}>" for index in range(len(control), special)]
    vocabulary |= {token: index for index, token in enumerate(control)}
    tokenizer = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=[(left, right) for *_, left, right in sorted(merges)],
            ignore_merges=True,
        )
    )
    split = pre_tokenizers.Split(Regex(config["pattern"]), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(each, normalized=False) for each in control])
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return write_base(folder, tokenizer, names)
