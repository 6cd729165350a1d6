"""Tokenizers of ``tokenizer.json`` that work as SentencePiece does: a space becomes ``▁``."""

from dataclasses import dataclass
from typing import Any, Literal

from megatron_in2.records import Follows
from megatron_in2.tokenizers.word_cache import SPACE

Prefix = Literal["each run", "first run", "never"]


@dataclass(frozen=True)
class SpaceRule:
    """BPE over ``▁`` with bytes as a fallback, and no other change to a text.

    Args:
        prefix: which runs of text between control tokens get a dummy prefix.
        keeps_space: a run that begins with a space gets its dummy prefix all the same.
        pieces: what text can turn into, single bytes left out.
    """

    prefix: Prefix
    keeps_space: bool
    pieces: tuple[str, ...]

    @property
    def joins_lines(self) -> bool:
        """Whether no piece reaches across a newline."""
        return not any("\n" in piece and piece != "\n" for piece in self.pieces)

    @property
    def splits_at_spaces(self) -> bool:
        """Whether, besides, no piece holds a space behind another character."""
        return self.joins_lines and not any(SPACE in piece.lstrip(SPACE) for piece in self.pieces)

    def dummy_prefix(self, text: str, follows: Follows) -> str:
        """Return the space that encoding puts before a text, or nothing."""
        places = {"each run": ("nothing", "control"), "first run": ("nothing",), "never": ()}
        if follows not in places[self.prefix]:
            return ""
        return " " if self.keeps_space or text[:1] not in (" ", SPACE) else ""


def space_rule_of_settings(settings: dict[str, Any]) -> SpaceRule | None:
    """Return the rule of a ``tokenizer.json``'s object; None for any other kind of tokenizer."""
    model = settings.get("model", {})
    if model.get("type") != "BPE" or not model.get("byte_fallback") or model.get("dropout"):
        return None
    added = {token["content"] for token in settings.get("added_tokens", [])}
    pieces = tuple(piece for piece in model["vocab"] if piece not in added and not _is_byte(piece))
    match settings.get("normalizer"), settings.get("pre_tokenizer"):
        case (
            {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Prepend", "prepend": "▁"},
                    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                ],
            },
            None,
        ):
            return SpaceRule("each run", True, pieces)
        case (
            None,
            {
                "type": "Metaspace",
                "replacement": "▁",
                "prepend_scheme": "always" | "first" | "never" as scheme,
            },
        ):
            prefix: dict[str, Prefix] = {
                "always": "each run",
                "first": "first run",
                "never": "never",
            }
            return SpaceRule(prefix[scheme], False, pieces)
    return None


def _is_byte(piece: str) -> bool:
    return len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
