"""Names in a text: persons, places, organisations, titles.

Found by their capitals, so in languages that write names with them; of Chinese and Japanese, what
is between 《》 only.
"""

from pathlib import Path

import regex  # type: ignore[import-untyped]

_CAPITAL = r"\p{Lu}[\p{L}\p{M}’'\-]*\p{L}"
_JOINT = r"(?:of|the|de|del|della|di|da|von|van|der|den|la|le|bin|al)"
_NAME = regex.compile(rf"{_CAPITAL}(?:\ (?:{_JOINT}\ ){{0,2}}{_CAPITAL})*|《[^》\n]{{2,40}}》")
_SENTENCE_START = regex.compile(r"(?:^|[.!?:;…\n][\"'”’»)\]]*\s*|[\"“«(]\s*)$")
_MIN_LETTERS = 3  # of a name of one word
# Words that begin sentences, and capitalised words that are no names.
_NO_NAMES = frozenset(Path(__file__).with_name("no_names.txt").read_text(encoding="utf-8").split())


def names_in(text: str) -> set[str]:
    """Return the names in a text. A single word that begins a sentence is none."""
    found = set()
    for match in _NAME.finditer(text):
        name = match[0]
        parts = name.split(" ")
        at_start = _SENTENCE_START.search(text[max(match.start() - 4, 0) : match.start()])
        # One word may have its capital from the sentence; a name of two may begin there.
        is_word = len(parts) == 1 and not name.isupper() and not name.startswith("《")
        if at_start and is_word:
            continue
        while parts and (parts[0] in _NO_NAMES or parts[0][0].islower()):
            parts = parts[1:]
        while parts and parts[-1] in _NO_NAMES:
            parts = parts[:-1]
        name = " ".join(parts)
        if len(parts) > 1 or len(name) >= (2 if name.isupper() else _MIN_LETTERS):
            found.add(name)
    return found
