"""Which files of a model's directory belong to its tokenizer, and which tokens they name."""

from pathlib import Path
from typing import Any

from megatron_in2.errors import InputError
from megatron_in2.files import atomic_file, read_json, write_json

TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_MODEL = "tokenizer.model"
CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"

# What Hugging Face and Mistral write for a tokenizer; a directory holds some of them.
TOKENIZER_FILES = (
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    CONFIG,
    SPECIAL_TOKENS,
    CHAT_TEMPLATE,
    "chat_template.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model.v1",
    "tokenizer.model.v2",
    "tokenizer.model.v3",
    "tokenizer.model.v7",
    "tekken.json",
)
# Names under which a chat template refers to special tokens.
TOKEN_ROLES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def tokenizer_files(folder: Path) -> dict[str, Path]:
    """Return the tokenizer's files of a directory, by name."""
    return {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """Return the object in ``tokenizer_config.json``; empty where there is none.

    Raises:
        InputError: the file holds something else.
    """
    path = folder / CONFIG
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no JSON object")
    return values


def token_roles(folder: Path) -> dict[str, str]:
    """Return the special tokens that a directory's files name, by role (``bos_token``).

    ``tokenizer_config.json`` counts; ``special_tokens_map.json`` fills what it does not mention.
    """
    path = folder / SPECIAL_TOKENS
    stated = {**(read_json(path) if path.is_file() else {}), **read_tokenizer_config(folder)}
    roles = {}
    for role in TOKEN_ROLES:
        value = stated.get(role)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str):
            roles[role] = token
    return roles


def read_chat_template(folder: Path) -> str | None:
    """Return the chat template of a directory, or None where it has none.

    ``chat_template.jinja`` comes before ``tokenizer_config.json``, as in transformers. Of several
    templates the one named ``default`` is taken.
    """
    path = folder / CHAT_TEMPLATE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    found = read_tokenizer_config(folder).get("chat_template")
    if isinstance(found, list):
        found = {each["name"]: each["template"] for each in found}.get("default")
    return found if isinstance(found, str) else None


def write_chat_template(folder: Path, source: str) -> None:
    """Put a chat template in the place of a directory's own; other files stay as they are."""
    if read_chat_template(folder) == source:
        return
    config = read_tokenizer_config(folder)
    if "chat_template" in config:
        write_json(folder / CONFIG, {**config, "chat_template": source})
    if "chat_template" not in config or (folder / CHAT_TEMPLATE).is_file():
        with atomic_file(folder / CHAT_TEMPLATE) as stream:
            stream.write(source)
