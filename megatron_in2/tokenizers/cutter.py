r"""Cuts texts into pre-tokens as the ``tokenizers`` library does, ten times as fast.

Python's expressions have no ``\p{L}``, and the two libraries know different versions of Unicode.
So each character beyond ASCII is replaced by one of a few stand-ins, one for each combination of
classes: which classes a character is in is asked of the library itself, once. The expression then
runs on the stand-ins, and its matches are cut out of the text.
"""

import re
from collections.abc import Iterator
from typing import Any

from tokenizers import Regex, pre_tokenizers

from megatron_in2.tokenizers.pretokens import PretokenRule

_CLASS = re.compile(r"\\p\{\w+\}|\\s|\\S")
_TOKENS = re.compile(r"(\\p\{\w+\}|\\[sS]|\\.|\(\?i:[^)]*\)|[\[\]])")
_ASCII = {
    r"\p{L}": "A-Za-z",
    r"\p{Lu}": "A-Z",
    r"\p{Ll}": "a-z",
    r"\p{N}": "0-9",
    r"\s": r"\t\n\v\f\r ",
}  # within ASCII all libraries agree; other classes have no ASCII character
_FIRST_STAND_IN = 0x80


class PretokenCutter:
    """Cuts texts by one rule.

    Args:
        rule: an expression made of known alternatives.
    """

    def __init__(self, rule: PretokenRule) -> None:
        self._rule = rule
        self._ascii = _compiled(rule, [])
        self._stand_ins = _StandIns(rule)

    def cut(self, text: str) -> list[str]:
        """Return the pre-tokens of a text, in order."""
        if text.isascii():
            return self._ascii.findall(text)
        shadow = text.translate(self._stand_ins)
        return [text[match.start() : match.end()] for match in self._stand_ins.matches(shadow)]


class _StandIns(dict[int, int]):
    """Code points beyond ASCII -> stand-ins; what is not in it yet is asked of the library."""

    def __init__(self, rule: PretokenRule) -> None:
        super().__init__({code: code for code in range(_FIRST_STAND_IN)})
        self._rule = rule
        names = {*_CLASS.findall(rule.pattern), r"\s"} - {r"\S"}
        folded = {f"(?i:{letter})" for letter in _folded_letters(rule)}
        self._tests = {name: _test(name) for name in sorted(names | folded)}
        self._kinds: list[frozenset[str]] = []
        self._pattern = _compiled(rule, [])

    def __missing__(self, code: int) -> int:
        character = chr(code)
        # Half a surrogate pair is in no class; the library takes no such text.
        is_half = 0xD800 <= code < 0xE000
        kind = frozenset(
            name
            for name, splitter in self._tests.items()
            if not is_half and not splitter.pre_tokenize_str(character)
        )
        if kind not in self._kinds:
            self._kinds.append(kind)
            self._pattern = _compiled(self._rule, self._kinds)
        self[code] = _FIRST_STAND_IN + self._kinds.index(kind)
        return self[code]

    def matches(self, shadow: str) -> Iterator[re.Match[str]]:
        """Yield the expression's matches in a text of stand-ins."""
        return self._pattern.finditer(shadow)


def _test(name: str) -> Any:
    """Return what removes characters of a class: of such a character nothing is left."""
    return pre_tokenizers.Split(Regex(name), "removed")


def _folded_letters(rule: PretokenRule) -> set[str]:
    """Return the letters that the expression matches whatever their case."""
    groups = re.findall(r"\(\?i:([^)]*)\)", rule.pattern)
    return {letter for group in groups for letter in group if letter.isalpha()}


def _compiled(rule: PretokenRule, kinds: list[frozenset[str]]) -> re.Pattern[str]:
    """Write the alternatives with explicit characters.

    Args:
        rule: whose alternatives.
        kinds: the classes of each stand-in.
    """
    return re.compile("|".join(_written(each, kinds) for each in rule.alternatives), re.ASCII)


def _written(alternative: str, kinds: list[frozenset[str]]) -> str:
    written, is_class = [], False
    for part in _TOKENS.split(alternative):
        if part in ("[", "]"):
            is_class = part == "["
        if part == r"\S":
            part = f"[^{_members(chr(92) + 's', kinds)}]"
        elif _CLASS.fullmatch(part):
            members = _members(part, kinds)
            part = members if is_class else f"[{members}]"
        elif part.startswith("(?i:"):
            part = _without_case(part, kinds)
        written.append(part)
    return "".join(written)


def _without_case(group: str, kinds: list[frozenset[str]]) -> str:
    """Write ``(?i:'s|'t)`` with both cases, and the stand-ins that the library folds to one."""
    return "(?:" + "".join(
        f"[{each.lower()}{each.upper()}{_stand_ins(f'(?i:{each})', kinds)}]"
        if each.isalpha()
        else each
        for each in group.removeprefix("(?i:")
    )


def _members(name: str, kinds: list[frozenset[str]]) -> str:
    """Return the characters of a class: those of ASCII and the stand-ins."""
    return _ASCII.get(name, "") + _stand_ins(name, kinds)


def _stand_ins(name: str, kinds: list[frozenset[str]]) -> str:
    codes = [_FIRST_STAND_IN + index for index, kind in enumerate(kinds) if name in kind]
    return "".join(f"\\x{code:02x}" for code in codes)
