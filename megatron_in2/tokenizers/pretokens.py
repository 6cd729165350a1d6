r"""The rule by which byte-level BPE cuts a text before it merges, and what follows from it.

Such a tokenizer first cuts a text into pre-tokens by a regular expression; merges never cross
their borders. Three things follow for the expressions of Llama 3, Qwen, Tekken and their kin,
which are made of the alternatives in ``_ALTERNATIVES`` only:

- Ids of a text are the ids of its pre-tokens, each encoded by itself. No alternative looks back,
  and the only one that looks ahead, ``\s+(?!\S)``, matches its own match again when that is
  the whole text. So pre-tokens that were encoded once can be looked up.
- A line with its final newline can be encoded apart from the next one where no match crosses the
  border. A newline is matched by two kinds of alternatives only: ``\s*[\r\n]+``, which goes on
  over white space that holds another line break, and marks with what may trail them
  (``[\r\n]*``, ``[\r\n/]*``). So what follows must not begin with a trailing character, nor with
  white space that holds a line break. ``\s*[\r\n]+`` comes before the other alternatives for
  white space, which therefore never see the newline.
- NFC normalisation does not cross the border either: a newline composes with nothing.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_SUFFIX = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_UPPER_LOWER = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
)
_LINE_BREAKS = r"\s*[\r\n]+"
# Alternatives whose matches are proven above, and the characters that may trail a newline in them.
_ALTERNATIVES: dict[str, str] = {
    **dict.fromkeys(_CONTRACTIONS, ""),
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)": "",
    r"[^\r\n\p{L}\p{N}]?\p{L}+": "",
    **{part + suffix: "" for part in _UPPER_LOWER for suffix in ("", _SUFFIX)},
    r" ?\p{L}+": "",
    r"\p{N}": "",
    r"\p{N}{1,3}": "",
    r"\p{N}+": "",
    r" ?\p{N}+": "",
    r" ?[^\s\p{L}\p{N}]+": "",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*": "\r\n",
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*": "\r\n/",
    _LINE_BREAKS: "",
    r"\s+(?!\S)": "",
    r"\s+": "",
}
_SPACES = (r"\s+(?!\S)", r"\s+")


@dataclass(frozen=True)
class PretokenRule:
    """An expression that is made of known alternatives only.

    Args:
        pattern: the expression, as the ``tokenizers`` library has it.
        alternatives: its alternatives, in order.
    """

    pattern: str
    alternatives: tuple[str, ...]

    @property
    def joins_lines(self) -> bool:
        """Whether lines with their final newline can be encoded apart (most of them)."""
        if _LINE_BREAKS not in self.alternatives:
            return False
        place = self.alternatives.index(_LINE_BREAKS)
        return all(self.alternatives.index(s) > place for s in _SPACES if s in self.alternatives)

    @cached_property
    def _trailing(self) -> frozenset[str]:
        return frozenset("".join(_ALTERNATIVES[each] for each in self.alternatives))

    def joins_behind_newline(self, text: str) -> bool:
        """Whether no match crosses from a newline into a text that follows it."""
        if not self.joins_lines or not text or text[0] in self._trailing:
            return False
        rest = text.lstrip()  # takes more for white space than the library does: on the safe side
        spaces = text[: len(text) - len(rest)]
        return bool(rest) and "\n" not in spaces and "\r" not in spaces


def read_rule(pattern: str) -> PretokenRule | None:
    """Return the rule of an expression; None where an alternative is not known."""
    alternatives = tuple(_split_alternatives(pattern))
    return PretokenRule(pattern, alternatives) if _is_known(alternatives) else None


def _is_known(alternatives: tuple[str, ...]) -> bool:
    return all(each in _ALTERNATIVES for each in alternatives)


def _split_alternatives(pattern: str) -> list[str]:
    """Split an expression at the bars outside of brackets and groups."""
    parts, depth, is_class, start, place = [], 0, False, 0, 0
    while place < len(pattern):
        character = pattern[place]
        if character == "\\":
            place += 1
        elif is_class:
            is_class = character != "]"
        elif character == "[":
            is_class = True
        elif character == "|" and not depth:
            parts.append(pattern[start:place])
            start = place + 1
        else:
            depth += (character == "(") - (character == ")")
        place += 1
    return [*parts, pattern[start:]]


def rule_of_settings(settings: dict[str, Any]) -> PretokenRule | None:
    """Return the rule of a ``tokenizer.json``; None where nothing is proven about it.

    Args:
        settings: the file's object. Byte-level BPE with a known expression has a rule if text is
            not changed before it is cut, but for NFC.
    """
    if settings.get("model", {}).get("type") != "BPE" or settings["model"].get("dropout"):
        return None
    if not normalises_to_nfc(settings) and _parts(settings.get("normalizer"), "normalizers"):
        return None
    match _parts(settings.get("pre_tokenizer"), "pretokenizers"):
        case [
            {
                "type": "Split",
                "pattern": {"Regex": str(pattern)},
                "behavior": "Isolated",
                "invert": False,
            },
            {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
        ]:
            return read_rule(pattern)
    return None


def normalises_to_nfc(settings: dict[str, Any]) -> bool:
    """Whether NFC is all that a ``tokenizer.json`` does to a text before it is cut."""
    steps = _parts(settings.get("normalizer"), "normalizers")
    return bool(steps) and all(step.get("type") == "NFC" for step in steps)


def _parts(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Return the steps of a sequence, or the only step, or none."""
    if step is None:
        return []
    return step[name] if step.get("type") == "Sequence" else [step]
